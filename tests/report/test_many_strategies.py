"""Figures of 20 strategies: each can be identified, no text covers another, and a study can highlight some."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from lplgrad.analysis.statistics import Statistics, statistics
from lplgrad.machine.errors import UserError
from lplgrad.report import comparison_figures, cost, curves, figures, forests, style
from lplgrad.report.wording import MANY
from lplgrad.study.settings import StudyFile
from tests.made_up_study import STUDY

LONG = "Uncertainty herding (own features)"


def study_of(count: int, highlight: tuple[str, ...] = ()) -> StudyFile:
    """The paper's six strategies and others; the configuration lists them in another order than the alphabet's."""
    study = STUDY.study
    others = [f"other{number}" for number in range(count - len(curves.LOOKS), 0, -1)]
    titles = {name: LONG if name == "other2" else f"Other {name[5:]}" for name in others}
    rows = {name: study.strategies["random"].model_copy(update={"title": title}) for name, title in titles.items()}
    run = study.run.model_copy(update={"strategies": [*list(curves.LOOKS)[:count], *others], "seeds": [1, 2, 3]})
    changed = {"run": run, "strategies": {**study.strategies, **rows}, "highlight": list(highlight)}
    return StudyFile(study=study.model_copy(update=changed))


def measurements_of(file: StudyFile) -> pd.DataFrame:
    """Measurements in alphabetical order, so that no figure has the study's order from them."""
    generator, rows = np.random.default_rng(0), []
    for place, name in enumerate(sorted(file.study.run.strategies)):
        for seed, number in product((1, 2, 3), (1, 2, 3)):
            accuracy = 0.5 + 0.1 * number + 0.001 * place * (number > 1) + 0.01 * generator.normal()
            rows.append(
                {
                    "budget": "small", "dataset": "digits", "strategy": name, "recipe": "plain",
                    "acquisition": "random" if name == "random" else "entropy", "seed": seed, "round": number,
                    "labels": 10 * number, "accuracy": accuracy, "train_loss": 1.0, "repeats": 0, "torch": "2",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


TWENTY = study_of(20)
MEASURED = measurements_of(TWENTY)
RUN = TWENTY.study.run.strategies


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing the statistics of 190 pairs takes seconds, so the figures share them."""
    for module in (comparison_figures, forests):
        monkeypatch.setattr(module, "statistics", lambda *_: shared_statistics())


@cache
def shared_statistics() -> Statistics:
    return statistics(MEASURED, RUN)


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def boxes(figure: Any, texts: list[Any]) -> list[Bbox]:
    """Where texts are drawn, without the lines of annotations."""
    figure.draw_without_rendering()
    return [Text.get_window_extent(text) for text in texts]


def overlaps(found: list[Bbox], slack: float = 0.5) -> int:
    """How many pairs of boxes cover each other by more than some pixels."""
    return sum(
        min(one.x1, other.x1) - max(one.x0, other.x0) > slack and min(one.y1, other.y1) - max(one.y0, other.y0) > slack
        for one, other in combinations(found, 2)
    )


def numbers_of(axis: Any) -> dict[int, Annotation]:
    return {int(child.get_text()): child for child in axis.get_children() if isinstance(child, Annotation)}


def by_strategy(axis: Any, file: StudyFile) -> dict[str, Any]:
    """The lines of a panel by the names of their strategies."""
    titles = {file.study.strategies[name].title: name for name in file.study.run.strategies}
    return {titles[line.get_label()]: line for line in axis.lines if line.get_label() in titles}


class TestCurves:
    def test_a_number_identifies_every_curve(self) -> None:
        figure = figures.learning_curves(MEASURED, TWENTY, "small")
        shown = [text.get_text() for text in figure.legends[0].get_texts()]
        assert shown[0] == "1  LPLgrad"
        assert [int(text.split()[0]) for text in shown] == list(range(1, 21))
        assert shown[RUN.index("other2")].replace("\n", " ") == f"{RUN.index('other2') + 1}  {LONG}"
        for axis in figure.axes:
            written, lines = numbers_of(axis), by_strategy(axis, TWENTY)
            assert set(written) == {RUN.index(name) + 1 for name in lines}
            for name, line in lines.items():
                assert written[RUN.index(name) + 1].xy == (line.get_xdata()[-1], line.get_ydata()[-1])
            found = boxes(figure, list(written.values()))
            assert overlaps(found) == 0
            panel = axis.get_window_extent()
            assert min(box.y0 for box in found) > panel.y0 - 10
            assert max(box.y1 for box in found) < panel.y1 + 10
            assert min(box.x0 for box in found) > panel.x1

    def test_numbers_are_in_the_order_of_the_last_points(self) -> None:
        figure = figures.learning_curves(MEASURED, TWENTY, "small")
        figure.draw_without_rendering()
        for axis in figure.axes:
            height = {number: Text.get_window_extent(text).y0 for number, text in numbers_of(axis).items()}
            last = {RUN.index(name) + 1: line.get_ydata()[-1] for name, line in by_strategy(axis, TWENTY).items()}
            assert sorted(height, key=lambda number: height[number]) == sorted(last, key=lambda number: last[number])

    def test_bars_show_the_spread_of_last_points(self) -> None:
        """Each is a line of two points, the mean minus and plus the deviation, in the study's order."""
        figure = figures.learning_curves(MEASURED, TWENTY, "small")
        figure.draw_without_rendering()
        axis = figure.axes[0]
        assert not axis.collections, "there are no bands"
        last = (
            MEASURED.query("budget == 'small' and round == 3").groupby("strategy")["accuracy"].agg(["mean", "std"])
            * 100
        )
        bars = [line for line in axis.lines if list(line.get_xdata()) == [1, 1]]
        expected = [[row["mean"] - row["std"], row["mean"] + row["std"]] for _, row in last.loc[RUN].iterrows()]
        assert [list(bar.get_ydata()) for bar in bars] == [pytest.approx(ends) for ends in expected]
        low, high = axis.get_ylim()
        assert low < min(ends[0] for ends in expected)
        assert high > max(ends[1] for ends in expected)
        places = [bar.get_transform().transform((1, 80))[0] for bar in bars]
        assert np.diff(places) == pytest.approx(curves.NEXT_BAR * figure.dpi / 72)
        assert places[0] > max(Text.get_window_extent(text).x1 for text in numbers_of(axis).values())
        assert places[-1] < figure.legends[0].get_window_extent().x0

    @pytest.mark.parametrize("kind", ["calibration", "choices"])
    def test_other_curves_too(self, kind: str) -> None:
        frame = MEASURED.assign(
            calibration_error=0.1, negative_log_likelihood=lambda f: f["accuracy"], entropy_loss_correlation=0.5,
            balance_labeled=0.9, spread=lambda f: f["accuracy"], error_ranking=0.6,
        )  # fmt: skip
        about = ["budget", "dataset", "seed", "round", "labels"]
        pairs = MEASURED[MEASURED["strategy"] != "lplgrad"].rename(columns={"strategy": "baseline"})
        pairs = pairs.assign(strategy="lplgrad", jaccard=0.5)[[*about, "strategy", "baseline", "jaccard"]]
        figure = {
            "calibration": lambda: comparison_figures.draw_calibration(frame, TWENTY, "small"),
            "choices": lambda: comparison_figures.draw_choices(frame, pairs, TWENTY, "small"),
        }[kind]()
        figure.draw_without_rendering()
        for axis in figure.axes:
            assert overlaps([Text.get_window_extent(text) for text in numbers_of(axis).values()]) == 0
            assert set(numbers_of(axis)) == {RUN.index(name) + 1 for name in by_strategy(axis, TWENTY)}
        assert figure.legends[0].get_window_extent().x0 > max(axis.get_tightbbox().x1 for axis in figure.axes)

    def test_rows_of_seconds_do_not_touch(self) -> None:
        file = study_of(20, ("lplgrad", "random"))
        timings = MEASURED.assign(train_seconds=lambda frame: frame["seed"] * 10.0, query_seconds=1234.5)
        figure = cost.cost(MEASURED, timings, file, "small")
        above, below = figure.axes
        assert set(numbers_of(above)) == {RUN.index(name) + 1 for name in ("lplgrad", "random")}
        labels = below.get_yticklabels()
        titles = [f"{number}  {file.study.strategies[name].title}" for number, name in enumerate(RUN, start=1)]
        assert [text.get_text() for text in labels] == titles
        front = [text.get_text() for text in labels if text.get_color() != curves.GREY_TEXT]
        assert front == [title for title in titles if title.endswith(("LPLgrad", "Random"))]
        assert overlaps(boxes(figure, labels)) == overlaps(boxes(figure, below.texts)) == 0
        assert max(box.x1 for box in boxes(figure, below.texts)) <= figure.bbox.x1

    def test_a_low_figure_has_a_legend_of_several_columns(self) -> None:
        file = study_of(30)
        figure = figures.learning_curves(measurements_of(file).query("strategy != 'random'"), file, "small")
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert figure.legends[0]._ncols > 1
        assert (box.x1 <= figure.bbox.x1, box.y0 >= 0, box.y1 <= figure.bbox.y1) == (True, True, True)
        assert box.x0 > figure.axes[0].get_tightbbox().x1

    def test_one_seed_and_one_round(self, tmp_path: Path) -> None:
        frame = MEASURED.query("seed == 1 and round == 1")
        style.save(figures.learning_curves(frame, TWENTY, "small"), [tmp_path / "one.svg"])

    def test_the_same_numbers_draw_the_same_bytes(self, tmp_path: Path) -> None:
        file = study_of(10)
        for name in ("one", "two"):
            style.save(figures.learning_curves(measurements_of(file), file, "small"), [tmp_path / f"{name}.svg"])
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


class TestFew:
    @pytest.mark.parametrize("highlight", [(), tuple(curves.LOOKS), ("other1",)])
    def test_nothing_is_numbered_or_grey(self, highlight: tuple[str, ...]) -> None:
        """Without highlighted strategies, with all of them, and with none that runs."""
        study = study_of(7).study
        run = study.run.model_copy(update={"strategies": list(curves.LOOKS)})
        file = StudyFile(study=study.model_copy(update={"run": run, "highlight": list(highlight)}))
        assert curves.looks_of(file) == curves.looks(file.study.run.strategies)
        assert all(look.number is None and look.spread == "band" for look in curves.looks_of(file).values())

    def test_from_nine_strategies_on_curves_have_numbers(self) -> None:
        assert {look.number for look in curves.looks_of(study_of(MANY)).values()} == {None}
        assert [look.number for look in curves.looks_of(study_of(MANY + 1)).values()] == list(range(1, MANY + 2))


class TestHighlight:
    FILE = study_of(20, ("random", "lplgrad", "other2"))  # in another order than the study's
    SHOWN = ("lplgrad", "random", "other2")

    def test_curves(self) -> None:
        figure = figures.learning_curves(MEASURED, self.FILE, "small")
        lines = by_strategy(figure.axes[0], self.FILE)
        expected = curves.looks(RUN)
        for name, line in lines.items():
            assert line.get_color() == (expected[name].color if name in self.SHOWN else curves.GREY)
            assert (line.get_marker() == "None") == (name not in self.SHOWN)
        assert min(lines[name].get_linewidth() for name in self.SHOWN) > lines["entropy"].get_linewidth()
        bands = [to_hex(band.get_facecolor()[0]).upper() for band in figure.axes[0].collections]
        assert bands == [expected[name].color for name in self.SHOWN]
        assert set(numbers_of(figure.axes[0])) == set(range(1, 21))
        grey = [text.get_color() == curves.GREY_TEXT for text in figure.legends[0].get_texts()]
        assert grey == [name not in self.SHOWN for name in RUN]

    def test_more_than_eight_have_bars(self) -> None:
        found = curves.looks_of(study_of(20, tuple(RUN[:9])))
        assert [look.spread for look in found.values()] == ["bar"] * 9 + [""] * 11

    @pytest.mark.usefixtures("compared")
    def test_other_figures(self) -> None:
        forest = forests.differences(self.FILE, MEASURED).axes[0]
        titles = [text.get_text() for text in forest.get_yticklabels() if text.get_color() != curves.GREY_TEXT]
        assert titles == ["Random", LONG]
        matrix = comparison_figures.penalties(self.FILE, MEASURED).axes[0]
        titles = [text.get_text() for text in matrix.get_xticklabels() if text.get_color() != curves.GREY_TEXT]
        assert titles == ["LPLgrad", "Random", LONG]
        (ranks,) = comparison_figures.ranks(self.FILE, MEASURED).axes
        front = [text for text in ranks.texts if "." in text.get_text() and text.get_color() != curves.GREY_TEXT]
        assert {text.get_text().strip().rsplit(" (", 1)[0] for text in front} == {"LPLgrad", "Random", LONG}

    def test_the_command_takes_other_names(self) -> None:
        changed = figures._highlighting(TWENTY, ["entropy"])
        assert [name for name, look in curves.looks_of(changed).items() if look.spread] == ["entropy"]
        with pytest.raises(UserError, match=r"--highlight: the study does not run 'entropi'.*did you mean 'entropy'"):
            figures._highlighting(TWENTY, ["entropi"])


@pytest.mark.usefixtures("compared")
class TestComparison:
    def test_rows_of_differences_do_not_touch(self) -> None:
        figure = forests.differences(TWENTY, MEASURED)
        labels = figure.axes[0].get_yticklabels()
        titles = [TWENTY.study.strategies[name].title for name in RUN if name != "lplgrad"]
        assert [text.get_text() for text in labels] == titles
        assert overlaps(boxes(figure, labels)) == 0
        margin = [text for text in figure.axes[0].texts if text.get_text()]
        assert overlaps(boxes(figure, margin)) == 0

    def test_cells_of_the_matrix_hold_their_numbers(self) -> None:
        figure = comparison_figures.penalties(TWENTY, MEASURED)
        axis = figure.axes[0]
        cells = boxes(figure, axis.texts)
        assert len(cells) == 20 * 20  # without the diagonal, and with the means
        width, height = (axis.transData.transform((1, 1)) - axis.transData.transform((0, 0))) * (1, -1)
        assert max(box.width for box in cells) < 0.9 * width
        assert max(box.height for box in cells) < 0.9 * height
        rows = [text.get_text() for text in axis.get_yticklabels()]
        assert rows == [f"{TWENTY.study.strategies[name].title} beats" for name in RUN] + ["mean: is beaten"]
        assert overlaps(boxes(figure, axis.get_yticklabels())) == 0

    def test_titles_of_several_lines_make_room(self) -> None:
        rows = TWENTY.study.strategies
        titled = {name: rows[name].model_copy(update={"title": f"{name} {'word ' * 20}"}) for name in RUN[:3]}
        file = StudyFile(study=TWENTY.study.model_copy(update={"strategies": {**rows, **titled}}))
        for draw in (forests.differences, forests.gains, comparison_figures.penalties):
            figure = draw(file, MEASURED)
            assert overlaps(boxes(figure, figure.axes[0].get_yticklabels())) == 0

    def test_labels_of_the_rank_diagram_do_not_collide(self) -> None:
        figure = comparison_figures.ranks(TWENTY, MEASURED)
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert sum("." in text.get_text() for text in figure.axes[0].texts) >= 20
        assert overlaps(boxes(figure, texts)) == 0
        found = boxes(figure, texts)
        assert min(box.x0 for box in found) >= 0
        assert max(box.x1 for box in found) <= figure.bbox.x1


class TestApart:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([], []),
            ([0.3], [0.3]),
            ([0.2, 0.5, 0.9], [0.2, 0.5, 0.9]),
            ([0.5, 0.5], [0.45, 0.55]),
            ([0.5, 0.5, 0.56], [0.42, 0.52, 0.62]),  # the three move together: their mean stays 0.52
            ([0.98, 1.0], [0.9, 1.0]),
            ([0.0, 0.0, 0.5], [0.0, 0.1, 0.5]),
        ],
    )
    def test_by_hand(self, values: list[float], expected: list[float]) -> None:
        assert curves.apart(values, 0.1) == pytest.approx(expected)

    def test_too_many_are_spaced_evenly(self) -> None:
        assert curves.apart([0.5] * 21, 0.1) == pytest.approx(np.linspace(0, 1, 21))

    def test_moves_are_the_least(self) -> None:
        """Against a grid of all placements of three values."""
        generator, grid = np.random.default_rng(1), np.linspace(0, 1, 51)
        one, two, three = np.meshgrid(grid, grid, grid, indexing="ij")
        allowed = (two - one >= 0.2 - 1e-9) & (three - two >= 0.2 - 1e-9)
        for _ in range(20):
            values = np.sort(generator.uniform(size=3))
            moves = sum((place - value) ** 2 for place, value in zip((one, two, three), values, strict=True))
            found = np.array(curves.apart(list(values), 0.2))
            assert ((found - values) ** 2).sum() <= moves[allowed].min() + 1e-9
            assert np.diff(found).min() >= 0.2 - 1e-9
            assert 0 <= found[0] <= found[-1] <= 1
