"""Titles in the captions of the report: whatever a title is, it is shown as it was written."""

from __future__ import annotations

import html
import re
from typing import Any

import pytest
from docutils.core import publish_parts  # type: ignore[import-untyped]
from jinja2 import Template

from lplgrad.report import captions
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Study
from tests.finished_study import HOME, study_of

TITLES = [
    "$\\frac{$", "$5 to $10", "{x}", "{ budget }", "a*b|c_d_", "`code`", "``", "<b>&amp;", "</script><!--", "_hidden",
    "__x__", "猫", "%d %(x)s", "A: b", "ends:", ":field: x", "\\", "back\\", "- x", "1. one", "* a", "| line", "..",
    ".. note:: x", "::", "====", "Results", "workflow", "|x|_", "http://x.org", "a@b.org", "[1]_", "-a  b", "'\"",
    "word_", "e\u0301", "😀", "عربي", "x" * 200,
]  # fmt: skip


def rendered(text: str) -> str:
    """The words of reStructuredText, of which docutils has nothing to complain."""
    complaints = Complaints()
    body = publish_parts(text, writer="html", settings_overrides={"warning_stream": complaints})["body"]
    assert complaints.said == "", text
    assert "system-message" not in body
    return html.unescape(re.sub(r"<[^>]+>", "", body))


class Complaints:
    """Where docutils writes what it complains of."""

    said = ""

    def write(self, text: str) -> None:
        self.said += text


@pytest.mark.parametrize("title", TITLES)
def test_a_caption_shows_a_title_as_it_is(title: str) -> None:
    shown = captions.escaped(title)
    assert rendered(f"{shown} alone, on {shown}.").split() == f"{title} alone, on {title}.".split()
    table = f".. list-table::\n\n   * - {shown}\n     - {shown}\n"
    assert rendered(table).split() == [*title.split(), *title.split()]
    whole = publish_parts(f"{shown}\n{'==' * len(shown)}\n\nA text.", writer="html")
    assert html.unescape(whole["title"]).split() == title.split()


@pytest.mark.parametrize("title", TITLES)
def test_a_label_shows_a_title_as_it_is(title: str) -> None:
    """Snakemake replaces what it takes for wildcards, makes link targets of categories, and writes them in a script."""
    from snakemake.io import apply_wildcards

    label = captions.label(title)
    assert label.replace(captions.JOINER, "").split() == title.split()
    assert apply_wildcards(label, {}) == label
    assert "</" not in label
    assert "<!" not in label
    targets = [f".. _{name}: javascript:show('{name}')" for name in ("Workflow", "Statistics", "Results", "x.svg")]
    rendered("\n".join(["A text.", "", *targets, f".. _{label}: javascript:app.showCategory('x')", ""]))


@pytest.mark.parametrize("title", TITLES)
def test_titles_take_the_places_in_a_label(title: str) -> None:
    study = read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"])
    titled = study.strategies["random"].model_copy(update={"title": title})
    study = study.model_copy(update={"strategies": {"random": titled}})
    names = {"dataset": "digits", "strategy": "random", "budget": "small"}
    placed = captions.placed(study, "{strategy}, {dataset}, {budget} budget", names)
    assert placed == f"{captions.label(title)}, Digits (8x8), small budget"
    assert captions.placed(study, None, names) is None


def test_ordinary_titles_stay_as_they_are() -> None:
    for title in ("Digits (8x8)", "CIFAR-10", "Entropy (joint)"):
        assert captions.label(title) == title
    assert captions.label("Reduced: CIFAR-10") == f"Reduced:{captions.JOINER} CIFAR-10"
    assert captions.escaped("CIFAR 10") == "CIFAR 10"


def test_white_space_is_one_blank() -> None:
    for show in (captions.escaped, captions.label):
        assert show(" a \u2028 b\u3000c ") == "a b c"


def test_names_of_budgets_are_escaped_too() -> None:
    values = study_of(budgets=["low_"])
    values["datasets"]["data"]["budgets"] = {"low_": {"query_size": 4, "labels": 12}}
    values["model_figures"] = {}
    shown = captions.shown(read_study([HOME / "config.yaml"], values), ["data"])
    assert rendered(f"({shown['budgets']['low_']}) {shown['left_out'][0]}").strip() == "(low_) Digits (8x8)"


def caption(study: Study, name: str, rule: str, figure: str) -> str:
    """The words of the caption of a figure."""
    config = {**study.model_dump(by_alias=True), "shown": captions.shown(study, [])}
    template = Template((HOME / "report" / f"{name}.rst").read_text(encoding="utf-8"))
    wildcards = {"figure": figure, "budget": "small"}
    return " ".join(
        rendered(template.render(snakemake={"config": config, "rule": rule, "wildcards": wildcards})).split()
    )


def test_captions_say_how_curves_look() -> None:
    """A study of three strategies, the same with one highlighted, and one of nine."""
    few = read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"])
    one = few.model_copy(update={"highlight": ["entropy"]})
    names = [*few.strategies, *(f"other_{number}" for number in range(9 - len(few.strategies)))]
    rows = {name: few.strategies.get(name, few.strategies["random"]) for name in names}
    many = few.model_copy(update={"strategies": rows, "run": few.run.model_copy(update={"strategies": names})})
    for kind in ("learning_curves", "cost", "calibration", "choices"):
        plain, grey, crowded = (caption(study, "budget_figure", "budget_figure", kind) for study in (few, one, many))
        assert "a band of one standard deviation" in plain
        assert "number at the end" not in plain
        assert "grey" not in plain
        assert "Highlighted: Entropy. The other strategies are grey. The number at the end of a curve" in grey
        assert "Only highlighted strategies have a band." in grey
        assert "a bar of one standard deviation" in crowded
        assert "The number at the end of a curve is that of its strategy in the legend. Bars show" in crowded
    for kind in ("differences", "gains", "penalties", "ranks", "datasets/digits"):
        plain, grey = (caption(study, "study_figure", "study_figure", kind) for study in (few, one))
        assert "Highlighted" not in plain
        assert "Highlighted: Entropy. The other strategies are grey." in grey


def first_page(study: Study, config: dict[str, Any]) -> str:
    template = Template((HOME / "report" / "workflow.rst").read_text(encoding="utf-8"))
    config = {**config, "shown": captions.shown(study, [])}
    return " ".join(rendered(template.render(snakemake={"config": config})).split())


@pytest.mark.parametrize(
    ("start", "words"),
    [({"by": "typiclust"}, "typiclust"), ({"draw": "stratified"}, "stratified"), ({"size": 9}, "9, uniform")],
)
def test_the_first_page_says_how_the_first_labels_are_chosen(start: dict[str, Any], words: str) -> None:
    study = read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"])
    config = study.model_dump(by_alias=True, exclude_unset=True)
    (row,) = config["datasets"]["digits"]["budgets"].values()
    assert "(round 1:" not in first_page(study, config)
    row["start"] = start
    assert f"{words})" in first_page(study, config)


def test_the_first_page_says_how_every_strategy_trains() -> None:
    study = read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"])
    words = first_page(study, study.model_dump(by_alias=True))
    assert "LPLgrad the model and a loss prediction module, jointly gradient norm" in words
    assert "Random the model alone random" in words
