"""From measurements to tables and figures, on numbers that were computed by hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lplgrad.analysis.trained import trained
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.report import curves, figures, style, tables, trial_figures
from lplgrad.report.document import document
from lplgrad.rounds.pool import UNKNOWN, LabeledSet
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile
from tests.finished_study import finish, study_of

HOME = Path(__file__).parents[2]
STUDY = StudyFile(study=read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]))


def measurements() -> pd.DataFrame:
    """Two seeds, three strategies, two rounds."""
    accuracies = {
        ("lplgrad", 1): (0.50, 0.80), ("lplgrad", 2): (0.60, 0.90),
        ("entropy", 1): (0.52, 0.70), ("entropy", 2): (0.54, 0.74),
        ("random", 1): (0.52, 0.60), ("random", 2): (0.54, 0.70),
    }  # fmt: skip
    rows = [
        {
            "budget": "small", "dataset": "digits", "strategy": strategy, "recipe": "plain", "acquisition": strategy,
            "seed": seed, "round": number, "labels": 10 * number, "accuracy": accuracy, "train_loss": 1.0,
            "repeats": 0,
        }
        for (strategy, seed), curve in accuracies.items()
        for number, accuracy in enumerate(curve, start=1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_accuracy_table_by_hand() -> None:
    table = tables.accuracy_table(measurements()).set_index(["strategy", "labels"])
    assert table.loc[("lplgrad", 20), "mean"] == pytest.approx(85.0)
    assert table.loc[("lplgrad", 20), "std"] == pytest.approx(np.sqrt(50))  # n - 1
    assert (table["seeds"] == 2).all()


def test_accuracy_page_shows_mean_deviation_and_the_best() -> None:
    (section,) = tables.accuracy_parts(tables.accuracy_table(measurements()), STUDY)
    assert section.heading == "Digits (8x8), small budget (2 seeds)"
    assert list(section.head) == ["labels", "LPLgrad", "Entropy", "Random"]
    assert list(section.rows[1]) == ["20", "85.0 ± 7.1", "72.0 ± 2.8", "65.0 ± 7.1"]
    assert section.strong == {(0, 1), (1, 1)}
    page = document("A <title>", [section])
    assert "<td class='strong'>85.0 ± 7.1</td>" in page
    assert "<td class='text'>20</td>" in page
    assert "A &lt;title&gt;" in page


def test_one_seed_and_missing_cells_leave_gaps() -> None:
    frame = measurements().query("seed == 1 and not (strategy == 'entropy' and round == 2)")
    (section,) = tables.accuracy_parts(tables.accuracy_table(frame), STUDY)
    assert [*map(list, section.rows)] == [["10", "50.0", "52.0", "52.0"], ["20", "80.0", "–", "60.0"]]


def test_time_table_by_hand() -> None:
    frame = measurements().drop(columns=["accuracy"])
    frame["train_seconds"] = frame["labels"] * 1.0
    frame["query_seconds"] = np.where(frame["labels"] == 10, 3.0, np.nan)
    frame["device"] = "a card"
    table = tables.time_table(frame).set_index("strategy")
    seconds = table[["train_round", "query_round", "train_trial", "query_trial"]]
    assert seconds.index[0] == "lplgrad"
    assert seconds.to_numpy()[0].tolist() == [15, 3, 30, 3]
    (section,) = tables.time_parts(table.reset_index(), STUDY)
    assert section.heading.endswith("on a card")


def timed(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return trained(frame, frame["train_seconds"] == 0)


def test_times_of_trials_that_stopped() -> None:
    """Seed 1 of lplgrad stops after round 2 of 3, which has no query, and it is no trial."""
    rows = [
        {
            "budget": "small", "dataset": "digits", "strategy": "lplgrad", "seed": seed, "round": number,
            "train_seconds": 0.0 if (seed, number) == (1, 3) else 10.0 * number,
            "query_seconds": np.nan if number == 3 or (seed, number) == (1, 2) else 4.0, "device": "a card",
        }
        for seed in (1, 2)
        for number in (1, 2, 3)
    ]  # fmt: skip
    table = tables.time_table(timed(rows))
    wanted = ["seeds", "train_round", "query_round", "trials", "train_trial", "query_trial"]
    assert table[wanted].to_numpy().tolist() == [[2, 90 / 5, 4, 1, 60, 8]]
    (section,) = tables.time_parts(table, STUDY)
    assert section.rows == [["LPLgrad", "18.0", "4.0", "60.0 (of 1)", "8.0 (of 1)"]]
    none = tables.time_table(timed(rows[:3]))
    assert none["trials"].tolist() == [0]
    assert tables.time_parts(none, STUDY)[0].rows[0][3:] == ["–", "–"]


def test_gains_are_paired_by_seed() -> None:
    gains = figures._gain(measurements().assign(accuracy=lambda frame: frame["accuracy"] * 100), "random")
    last = gains.query("strategy == 'lplgrad' and round == 2").set_index("seed")["gain"]
    assert last.to_dict() == pytest.approx({1: 20.0, 2: 20.0})
    assert "random" not in set(gains["strategy"])


def test_the_baseline_of_gains_is_named() -> None:
    """Of two strategies that label at random it is the one called so, as in the tables."""
    frame = measurements()
    frame.loc[frame["strategy"] != "lplgrad", "acquisition"] = "random"
    _, below = figures.learning_curves(frame, STUDY, "small").axes
    assert below.get_ylabel() == "gain over Random\n(points, paired)"
    assert {line.get_label() for line in below.lines[:-1]} == {"LPLgrad", "Entropy"}


def test_the_look_of_a_strategy_is_the_same_everywhere() -> None:
    everywhere = curves.looks(["lplgrad", "random", "mine"])
    assert curves.looks(["mine", "random"])["random"] == everywhere["random"]
    assert len({look.color for look in everywhere.values()}) == 3
    assert len({look.marker for look in curves.looks([*curves.LOOKS, "a", "b", "c"]).values()}) == 9
    longer = curves.looks(["mine", *(f"other{number}" for number in range(30))])
    assert longer["mine"] == everywhere["mine"], "a strategy that is added changes no other's look"


def test_strategies_look_different_however_many_there_are() -> None:
    looks = curves.looks([*curves.LOOKS, *(f"mine{number}" for number in range(18))]).values()
    assert len({look.color for look in looks}) == 24
    assert len({(look.marker, look.hollow) for look in looks}) == 24, "they are told apart in grey"
    many = curves.looks([f"mine{number}" for number in range(324)]).values()
    assert len({(look.color, look.marker, look.hollow) for look in many}) == 324


def drawn_bands(axis: Axes) -> tuple[float, float]:
    """The lowest and the highest point of any band."""
    points = np.concatenate([path.vertices for band in axis.collections for path in band.get_paths()])
    return float(points[:, 1].min()), float(points[:, 1].max())


def test_bands_of_accuracy_end_where_accuracy_does() -> None:
    """Accuracies of 100 and 90 % have a mean of 95 and a deviation of 7.1; a gain may be anything."""
    frame = measurements()
    frame.loc[frame["strategy"] == "lplgrad", "accuracy"] = [1.0, 0.0, 0.9, 0.2]
    above, below = figures.learning_curves(frame, STUDY, "small").axes
    assert drawn_bands(above) == (0, 100)
    assert drawn_bands(below)[0] < -60


def test_bars_of_many_classes_can_be_seen() -> None:
    """One image of every seventh class was chosen: as many bars are found among the pixels of the picture."""
    classes = 300
    labels = np.arange(classes)
    data = SimpleNamespace(
        splits={"train": SimpleNamespace(inputs=np.zeros((classes, 2, 2, 1), np.uint8))},
        classes=[str(label) for label in labels],
    )
    picks = np.where(labels % 7 == 0, labels // 7 + 1, 0)
    scores = pd.DataFrame({"index": labels, "score": 1.0, "predicted_class": 0, "pick": picks})
    figure = trial_figures.contact_sheet(
        [trial_figures.Query(1, scores, LabeledSet(labels, np.full(classes, 2), labels))], cast(Any, data)
    )
    figure.set_dpi(200)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())
    box = figure.axes[-1].get_window_extent()
    row = pixels[pixels.shape[0] - int(box.y0 + box.height / 4), int(box.x0) : int(box.x1), 0]
    blue = row < 128
    assert (blue[1:] & ~blue[:-1]).sum() == len(labels[::7])


def test_the_chosen_files_are_those_of_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Callable[..., tuple[int, str]]
) -> None:
    """Two queries of four: the listing is made again from scores.csv and files.csv by hand."""
    monkeypatch.chdir(tmp_path)
    file = finish(study_of(strategies=["entropy"], seeds=[1]), ["a, b", "c"])
    Path("study.yaml").write_text(yaml.safe_dump(file.model_dump(by_alias=True)))
    trial = ["--budget", "small", "--dataset", "data", "--strategy", "entropy", "--seed", 1]
    table = ["table", "chosen-files", "--study", "study.yaml", *trial, "--output", "chosen.csv", "chosen.html"]
    status, told = lplgrad(*table)
    assert (status, "data/data/files.csv: missing; write it again with lplgrad files" in told) == (1, True)
    assert lplgrad("files", "--data", "data/data", "--output", "data/data/files.csv")[0] == 0
    assert lplgrad(*table) == (0, "")
    names = pd.read_csv("data/data/files.csv").query("split == 'train'").set_index("index")
    expected = []
    for number in (1, 2):
        scores = (
            pd.read_csv(f"results/tiny/small/data/entropy/seed1/round{number}/scores.csv")
            .query("pick > 0")
            .sort_values("pick")
        )
        for row in scores.sort_values("score", ascending=False, kind="stable").itertuples(index=False):
            name = names.loc[row.index]
            expected.append((number, row.index, name["path"], name["class"], row.score))
    assert len(expected) == 8
    found = pd.read_csv("chosen.csv")
    assert list(found) == ["round", "index", "path", "class", "score"]
    assert list(found.itertuples(index=False, name=None)) == expected
    assert f"train/{expected[-1][1]:05d}" in Path("chosen.html").read_text()


def words(figure: Figure) -> str:
    """What is written below or in a figure."""
    return " ".join(" ".join(text.get_text().split()) for text in figure.findobj(Text))


def test_a_repeated_round_counts_once_for_a_class() -> None:
    """Seed 1 stopped in round 1, so that its rounds 2 and 3 repeat it; seed 2 has 10, 20 and 30 labels."""
    panel = {"budget": "small", "dataset": "digits", "strategy": "lplgrad", "class": "zero"}
    rows = [(1, 1, 10, 0.9), (1, 2, 10, 0.9), (1, 3, 10, 0.9), (2, 1, 10, 0.5), (2, 2, 20, 0.6), (2, 3, 30, 0.7)]
    classes = pd.DataFrame(
        [{**panel, **dict(zip(("seed", "round", "labels", "accuracy"), row, strict=True))} for row in rows]
    )
    figure = figures.strategy(measurements(), classes, STUDY, "small", "digits", "lplgrad")
    shown = figure.axes[1].collections[0].get_array()
    np.testing.assert_allclose(np.ravel(shown), [70, 60, 70])


def test_curves_without_a_gain_say_why() -> None:
    frame = measurements()
    alone = figures.learning_curves(frame[frame["strategy"] == "random"], STUDY, "small")
    assert "Gains over Random are left out: no other strategy ran on a seed that it has." in words(alone)
    without = figures.learning_curves(frame[frame["strategy"] != "random"], STUDY, "small")
    assert "Gains over labelling at random are left out: no strategy here labels at random." in words(without)
    assert "left out" not in words(figures.learning_curves(frame, STUDY, "small"))


def test_one_round_has_one_tick() -> None:
    """A range of no width was once marked 10 five times."""
    figure = figures.learning_curves(measurements().query("round == 1"), STUDY, "small")
    low, high = figure.axes[1].get_xlim()
    assert [tick for tick in figure.axes[1].get_xticks() if low <= tick <= high] == [10]


def query(number: int, picks: list[float]) -> trial_figures.Query:
    frame = pd.DataFrame({"index": range(4), "score": 1.0, "predicted_class": 0, "pick": picks})
    after = LabeledSet(np.arange(4), np.full(4, number + 1), np.zeros(4, np.int64))
    return trial_figures.Query(number, frame if np.nansum(picks) else frame.iloc[:0], after)


def test_a_contact_sheet_without_choices_says_why(data: DatasetArrays) -> None:
    """A trial of one round has no query, and queries after its target accuracy was reached choose nothing."""
    assert "no query of this trial bought labels. It has one round." in words(trial_figures.contact_sheet([], data))
    stopped = [query(number, [np.nan] * 4) for number in (1, 2)]
    assert "It reached its target accuracy in round 1." in words(trial_figures.contact_sheet(stopped, data))
    later = words(trial_figures.contact_sheet([query(1, [2, 1, np.nan, np.nan]), *stopped[1:]], data))
    assert "The trial reached its target accuracy in round 2 and chose no more." in later
    assert "round 1" in later


def test_an_unknown_label_is_named_and_no_prediction_is_wrong(data: DatasetArrays) -> None:
    """Image 0 was labelled as class 1 and predicted as class 2; what image 1 shows is not known."""
    scores = pd.DataFrame({"index": [0, 1], "score": [2.0, 1.0], "predicted_class": 2, "pick": [1, 2]})
    after = LabeledSet(np.arange(2), np.full(2, 2), np.array([1, UNKNOWN]))
    axes = trial_figures.contact_sheet([trial_figures.Query(1, scores, after)], data).axes
    assert [axis.get_title().split("\n")[0] for axis in axes[:2]] == ["class1", "unknown"]
    assert ["class2" in [text.get_text() for text in axis.texts] for axis in axes[:2]] == [True, False]
    assert [bar.get_height() for bar in axes[-1].patches] == [0, 1, 0, 0]


def titled(**titles: str) -> StudyFile:
    """The tiny study with other titles of strategies."""
    strategies = STUDY.study.strategies
    changed = {name: strategies[name].model_copy(update={"title": title}) for name, title in titles.items()}
    return StudyFile(study=STUDY.study.model_copy(update={"strategies": {**strategies, **changed}}))


def test_titles_are_drawn_as_they_are_written(tmp_path: Path) -> None:
    """A dollar begins no formula, and what begins with an underscore is in the legend too."""
    file = titled(lplgrad="$\\frac{$", entropy="_hidden", random="$5 to  $10")
    figure = figures.learning_curves(measurements(), file, "small")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["$\\frac{$", "_hidden", "$5 to $10"]
    assert not any(text.get_parse_math() for text in figure.findobj(Text))
    style.save(figure, [tmp_path / "one.svg"])


def test_a_long_title_takes_more_lines_and_the_legend_more_room() -> None:
    file = titled(entropy="word " * 40)
    figure = figures.learning_curves(measurements().query("strategy == 'entropy'"), file, "small")
    lines = figure.legends[0].get_texts()[0].get_text().splitlines()
    assert max(map(len, lines)) <= style.TITLE_WIDTH
    assert " ".join(lines) == ("word " * 40).strip()
    many = {str(number): f"Strategy {number}" for number in range(40)}
    handles = dict.fromkeys(many, figure.axes[0].lines[0])
    curves.legend(figure, handles, many, "outside right center", curves.looks(list(many)))
    figure.canvas.draw()
    box = figure.legends[-1].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.y1


# A letter of the serif font, which comes with matplotlib as does the usual one, and which the usual one lacks.
OTHER = "\N{LATIN LETTER AIN}"


class TestFonts:
    def drawn(self, title: str) -> Any:
        return figures.learning_curves(measurements(), titled(entropy=title), "small")

    def test_what_the_usual_font_has_is_left_to_it(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        figure = self.drawn("Äπяع 1")
        style.save(figure, [tmp_path / "one.png"])
        assert {len(text.get_fontfamily()) for text in figure.findobj(Text)} == {1}
        assert capsys.readouterr().err == ""

    def test_another_font_writes_what_it_lacks(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert style._missing(OTHER, style.FONT) == {OTHER}
        figure = self.drawn(f"{OTHER} x")
        style.save(figure, [tmp_path / "one.png", tmp_path / "one.svg"])
        changed = [text for text in figure.findobj(Text) if len(text.get_fontfamily()) > 1]
        assert [text.get_text() for text in changed] == [f"{OTHER} x"]
        family, other = changed[0].get_fontfamily()
        assert family == style.FONT
        assert style._missing(OTHER, other) == set()
        style.save(self.drawn(f"{OTHER} x"), [tmp_path / "two.png", tmp_path / "two.svg"])
        for ending in ("png", "svg"):
            assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
        assert capsys.readouterr().err == ""

    def test_what_no_font_has_is_said_in_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(style, "_families", lambda: ["Last"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            style.save(self.drawn("猫 and 猫"), [tmp_path / "one.png"])
        assert capsys.readouterr().err == (
            "no installed font has 猫: the figure shows boxes there; install a font (on Debian: fonts-noto-cjk) and "
            "draw the figure again\n"
        )


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_same_numbers_draw_the_same_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("one", "two"):
        figure = figures.learning_curves(measurements(), STUDY, "small")
        style.save(figure, [tmp_path / f"{name}.{ending}"])
    assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()
