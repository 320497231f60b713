"""Studies of every shape, down to one strategy, one round and one seed: what is made of them, and what they lack."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import CHROMIUM, Browser
from tests.finished_study import TINY, commands, finish, study_of
from tests.runs import copy_project, snakemake

Made = Callable[..., dict[str, str]]
ONE_ROUND = {"query_size": 4, "labels": 4}
CLASSES = ["zero", "one", "two", "three"]


def shown(page: str) -> str:
    """The words of a page."""
    return " ".join(html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)).split())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Callable[..., tuple[int, str]]) -> Made:
    """Make everything of a finished study: no command fails or warns. The words of its pages, by the pages' names."""
    monkeypatch.chdir(tmp_path)

    def make(values: dict[str, Any], *finished: Any, classes: list[str] = CLASSES) -> dict[str, str]:
        file = finish(values, classes, *finished)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for command in commands(file):
                assert lplgrad(*command) == (0, ""), command
        return {path.stem: shown(path.read_text()) for path in Path("results").rglob("*.html")}

    return make


def with_budgets(values: dict[str, Any], **budgets: dict[str, Any]) -> dict[str, Any]:
    """The study with these budgets, models being looked into with all of them."""
    (dataset,) = values["datasets"].values()
    names = list(budgets)
    return {
        **values,
        "run": {**values["run"], "budgets": names},
        "datasets": {"data": {**dataset, "budgets": budgets}},
        "model_figures": {**values["model_figures"], "budgets": names},
    }


def at_once(strategies: set[str]) -> Callable[[Any, int], float]:
    """Some strategies have an accuracy of 95 % in round 1, the others later."""
    return lambda trial, number: 0.95 if trial.strategy in strategies or number == 3 else 0.5 + 0.1 * number


LARGE = {"query_size": 4, "labels": 12}
TARGET = {**LARGE, "target_accuracy": 0.9}
SHAPES: dict[str, tuple[dict[str, Any], *tuple[Any, ...]]] = {
    "one strategy": (study_of(strategies=["lplgrad"]),),
    "one round": (with_budgets(study_of(), small=ONE_ROUND),),
    "all at their target in round 1": (
        with_budgets(study_of(), small=TARGET),
        at_once({"lplgrad", "entropy", "random"}),
    ),
    "one at its target in round 1": (with_budgets(study_of(), small=TARGET), at_once({"random"})),
    "one of each": (with_budgets(study_of(strategies=["random"], seeds=[1]), small=ONE_ROUND),),
    "one budget of one round": (with_budgets(study_of(seeds=[1]), small=ONE_ROUND, large=LARGE),),
}
SAID = {
    "one strategy": "LPLgrad is the only strategy, so this page compares and tests nothing.",
    "one round": "Nothing is tested here: no seed has an area of LPLgrad and of another strategy.",
    "all at their target in round 1": "There are no ranks: in no budget and data set could strategies be compared.",
    "one at its target in round 1": "Ranks of the mean area",
    "one of each": "No accuracy to count labels for: there are no labels but those of round 1.",
    "one budget of one round": "Refused: no round after a query is common to all trials.",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_everything_is_made_and_what_is_missing_is_said(name: str, made: Made) -> None:
    pages = made(*SHAPES[name])
    assert SAID[name] in pages["statistics"]
    for page, text in pages.items():
        assert not re.search(r"\b(nan|inf|None)\b", text), page


LONG = f"A very long title {'that goes on ' * 20}"[:199] + "!"
NASTY = {"lplgrad": "$\\frac{$ {x}", "entropy": LONG, "random": "_hidden a*b|c_d_ `code` %d %(x)s عربي"}
DATASET = "_$5 to $10: <b>&amp;</script> {x} \\"
NAMES = ["$\\frac{$", "_hidden", "%d `c`", "a very long name of a class that goes on and on", "two\nlines"]


def titled(values: dict[str, Any]) -> dict[str, Any]:
    """The study with titles that mean something to all that they are written with."""
    (name, dataset), *_ = values["datasets"].items()
    strategies = {name: {"title": title} for name, title in NASTY.items()}
    return {
        **values, "title": f"{DATASET} {LONG[:120]}", "strategies": strategies,
        "datasets": {name: {**dataset, "title": DATASET}},
    }  # fmt: skip


@pytest.mark.slow
def test_titles_and_names_of_classes_may_be_anything(made: Made) -> None:
    pages = made(titled(study_of(seeds=[1])), classes=NAMES)
    for title in (DATASET, *NASTY.values()):
        assert " ".join(title.split()) in pages["accuracy"]


@pytest.mark.slow
def test_the_smallest_study_through_snakemake_with_titles_that_may_be_anything(tmp_path: Path) -> None:
    """One strategy, one round and one seed, to the end and into the report."""
    project = copy_project(tmp_path / "project")
    values = titled({**TINY, "run": {**TINY["run"], "strategies": ["random"], "seeds": [1]}})
    digits = values["datasets"]["digits"]
    values["model_figures"] = {**TINY["model_figures"], "strategies": ["random"]}
    budget = {"query_size": 10, "labels": 12, "start": {"size": 12, "draw": "stratified"}}
    digits |= {"backbone": {"name": "small_resnet"}, "budgets": {"small": budget}}
    (project / "nasty.yaml").write_text(yaml.safe_dump(values))
    snakemake(project, config="nasty.yaml")
    said = snakemake(project, "--report", "report.html", config="nasty.yaml")
    for word in ("WARNING", "ERROR", "Unknown target name", "Undefined"):
        assert word not in said, said
    page = (project / "report.html").read_text(encoding="utf-8")
    assert "10 (round 1: 12, stratified)" in page
    assert "system-message" not in page
    if CHROMIUM is None:
        return
    with Browser(tmp_path / "browser") as browser:
        browser.open(project / "report.html")
        browser.wait_for("document.body.innerText.includes('What was compared')")
        assert DATASET in browser.run("document.body.innerText").replace("\N{WORD JOINER}", "")
        found = browser.run("Object.values(results).map(each => [each.labels.result, each.caption])")
        assert browser.errors == []
    text = [shown(f"{label} {caption}").replace("\N{WORD JOINER}", "") for label, caption in found]
    assert sum(NASTY["random"] in each and DATASET in each for each in text) >= 5


@pytest.mark.slow
def test_one_seed_and_two_classes(made: Made) -> None:
    pages = made(study_of(seeds=[1]), classes=["no", "yes"])
    assert "Nothing is tested here: a test needs two seeds or more." in pages["statistics"]
