"""Gains over random labelling: what queries and training bring, in the table, on the page and in the figure."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lplgrad.analysis import comparison, curves
from lplgrad.analysis.statistics import statistics
from lplgrad.report import forests
from lplgrad.report import statistics as report
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile
from tests.made_up_study import HOME, NAMES, study, study_of

RUN = ["lplgrad", "entropy", "joint_random", "random"]


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def with_joint_random(points: float = -2.0, seeds: int = 5) -> pd.DataFrame:
    """A study whose recipe `joint` also has a strategy that labels at random, some points above `random`."""
    frame = study(seeds)
    random = frame[frame["strategy"] == "random"]
    joint = random.assign(strategy="joint_random", recipe="joint", accuracy=random["accuracy"] + points / 100)
    return pd.concat([frame, joint], ignore_index=True)


def file_of(names: list[str]) -> StudyFile:
    study = read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"])
    row = study.strategies["random"].model_copy(update={"title": "Random (joint)", "recipe": "joint"})
    run = study.run.model_copy(update={"strategies": names})
    changed = {"strategies": {**study.strategies, "joint_random": row}, "run": run}
    return StudyFile(study=study.model_copy(update=changed))


def gains_of(frame: pd.DataFrame, names: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows by strategy and kind of gain."""
    rows = comparison.gains(curves.areas(frame), frame, names).to_dict("records")
    return {(row["strategy"], row["gain"]): {str(name): value for name, value in row.items()} for row in rows}


def test_what_queries_and_training_bring_adds_up() -> None:
    frame = with_joint_random()
    areas = curves.areas(frame).pivot(index="seed", columns="strategy", values="area").mean()
    found = gains_of(frame, RUN)
    assert {key: row["baseline"] for key, row in found.items()} == {
        ("lplgrad", "total"): "random",
        ("lplgrad", "training"): "random",
        ("lplgrad", "query"): "joint_random",
        ("entropy", "total"): "random",
        ("entropy", "query"): "random",
        ("joint_random", "total"): "random",
        ("joint_random", "training"): "random",
    }
    gain = {key: row["difference"] for key, row in found.items()}
    assert gain["lplgrad", "training"] == pytest.approx(-2)
    assert gain["lplgrad", "query"] == pytest.approx(areas["lplgrad"] - areas["random"] + 2)
    assert gain["lplgrad", "total"] == pytest.approx(gain["lplgrad", "training"] + gain["lplgrad", "query"])
    assert gain["entropy", "total"] == gain["entropy", "query"] == pytest.approx(areas["entropy"] - areas["random"])
    wide = curves.areas(frame).pivot(index="seed", columns="strategy", values="area")
    interval = stats.ttest_rel(wide["lplgrad"], wide["joint_random"]).confidence_interval()
    row = found["lplgrad", "query"]
    assert [row["low"], row["high"]] == pytest.approx([interval.low, interval.high])


def test_a_recipe_without_random_labelling_has_the_total_only() -> None:
    assert list(gains_of(study(), NAMES)) == [
        ("lplgrad", "total"),
        ("entropy", "total"),
        ("entropy", "query"),
    ]


def test_without_random_labelling_there_is_no_gain() -> None:
    frame = study().query("strategy != 'random'")
    assert not gains_of(frame, NAMES[:2])
    parts = report.parts(statistics(frame, NAMES[:2]), frame, file_of(NAMES[:2]))
    assert "Gain over random labelling" not in [part.heading for part in parts]
    (axis,) = forests.gains(file_of(NAMES[:2]), frame).axes
    assert "no strategy here labels at random" in " ".join(axis.texts[0].get_text().split())


def test_random_labelling_of_another_recipe_is_not_its_own_baseline() -> None:
    """The study's only random labelling has the recipe `joint`, so `entropy` has no gain from queries."""
    frame = with_joint_random().query("strategy != 'random'")
    found = gains_of(frame, ["lplgrad", "entropy", "joint_random"])
    assert {key: row["baseline"] for key, row in found.items()} == {
        ("lplgrad", "total"): "joint_random",
        ("lplgrad", "query"): "joint_random",
        ("entropy", "total"): "joint_random",
    }


def test_two_strategies_that_label_at_random_with_one_recipe() -> None:
    """Each is its own baseline, so neither has a gain from queries, and its training is not that of the other."""
    frame = with_joint_random(-2.0)
    joint = frame[frame["strategy"] == "joint_random"]
    twin = joint.assign(strategy="joint_twin", accuracy=joint["accuracy"] + 0.005)
    found = gains_of(pd.concat([frame, twin], ignore_index=True), [*RUN, "joint_twin"])
    assert found["joint_twin", "training"]["difference"] == pytest.approx(-1.5)
    assert found["lplgrad", "query"]["baseline"] == "joint_random"
    assert ("joint_twin", "query") not in found


def test_a_seed_without_random_labelling_does_not_count() -> None:
    frame = with_joint_random().query("not (strategy == 'joint_random' and seed == 2)")
    found = gains_of(frame, RUN)
    assert [found["lplgrad", gain]["seeds"] for gain in ("total", "training", "query")] == [5, 4, 4]


def test_the_page_has_a_row_for_each_strategy() -> None:
    frame = with_joint_random()
    found = statistics(frame, RUN)
    parts = report.parts(found, frame, file_of(RUN))
    (table,) = (part for part in parts if "from queries" in part.head)
    rows: dict[Any, Any] = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["LPLgrad", "Entropy", "Random (joint)"]
    assert rows["Random (joint)"][0] == rows["Random (joint)"][2] == "−2.00"
    assert rows["Random (joint)"][4:] == rows["Entropy"][2:4] == ("–", "–")
    plain = report.parts(statistics(study(), NAMES), study(), file_of(NAMES))
    (table,) = (part for part in plain if "gain over Random" in part.head)
    assert table.head == ("strategy", "gain over Random", "95 % interval")


def test_without_the_study_s_random_labelling_the_page_shows_what_queries_bring() -> None:
    """Its trials have no area in common with the others yet, those of random labelling with the recipe `joint` have."""
    frame = with_joint_random().query("strategy != 'random' or round == 1")
    found = statistics(frame, RUN)
    assert found.baseline == "random"
    (table,) = (part for part in report.parts(found, frame, file_of(RUN)) if "gain over Random" in part.head)
    assert [row[:6] for row in table.rows] == [("LPLgrad", *["–"] * 4, table.rows[0][5])]
    assert table.rows[0][5].startswith("+")


def test_the_figure_fills_what_queries_bring() -> None:
    frame = with_joint_random()
    figure = forests.gains(file_of(RUN), frame)
    (axis,) = figure.axes
    drawn = {}
    for line in axis.lines:
        if len(line.get_xdata()) == 1:
            level, hollow = line.get_ydata()[0], line.get_markerfacecolor() == "white"
            assert level == round(level) or (level > round(level)) == hollow, "the total is below"
            drawn[round(level), hollow] = line.get_xdata()[0]
    found = {key: row["difference"] for key, row in gains_of(frame, RUN).items()}
    assert drawn == {
        (0, True): found["lplgrad", "total"],
        (0, False): found["lplgrad", "query"],
        (1, False): found["entropy", "query"],
        (2, True): found["joint_random", "total"],
    }
    (legend,) = figure.legends
    assert [" ".join(text.get_text().split()) for text in legend.get_texts()] == [
        "from queries: compared with random labelling by the same recipe",
        "from queries and training: compared with Random",
    ]
    assert not forests.gains(file_of(NAMES), study().query("strategy != 'lplgrad'")).legends


def test_a_total_without_its_parts_is_hollow() -> None:
    """No strategy labels at random with LPLgrad's recipe, so what its queries bring is unknown."""
    figure = forests.gains(file_of(NAMES), study())
    (axis,) = figure.axes
    marks = [line for line in axis.lines if len(line.get_xdata()) == 1]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [True, False]
    assert len(figure.legends) == 1


def test_arrows_point_to_values_that_would_squeeze_the_others() -> None:
    """Random labelling with the recipe `joint` is 40 points worse; all other intervals stay readable."""
    (axis,) = forests.gains(file_of(RUN), with_joint_random(-40.0)).axes
    low, high = axis.get_xlim()
    assert low > -10
    assert {"\N{MINUS SIGN}40.0"} < {text.get_text() for text in axis.texts}
    assert {text.xy[0] for text in axis.texts if text.arrow_patch} == {low, high}
    (mark,) = [line for line in axis.lines if list(line.get_xdata()) == [low]]
    assert mark.get_markerfacecolor() == "white", "the gain of Random (joint) over Random is a total"


def test_intervals_of_outliers_do_not_widen_the_axis() -> None:
    """Differences of +10 and -40 points have the mean -30 and an interval from -58 to -2."""
    frame = with_joint_random(-40.0)
    frame.loc[(frame["strategy"] == "joint_random") & (frame["seed"] == 1), "accuracy"] += 0.5
    (axis,) = forests.gains(file_of(RUN), frame).axes
    assert axis.get_xlim()[0] > -1


def test_a_panel_without_pairs_has_no_arrows() -> None:
    panels = tuple(product(("small", "large"), ("digits", "cifar10")))
    frame = study(panels=panels).query("budget != 'large' or dataset != 'digits'")
    file = study_of(frame)
    run = file.study.run.model_copy(update={"datasets": ["digits", "cifar10"]})
    changed = StudyFile.model_construct(study=file.study.model_copy(update={"run": run}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes = forests.gains(changed, frame).axes
    assert [text.get_text() for text in axes[2].texts] == [" no pairs"] * 2


@pytest.mark.parametrize("points", [0.0, -2.0])
def test_without_such_values_nothing_is_cut_off(points: float) -> None:
    (axis,) = forests.gains(file_of(RUN), with_joint_random(points)).axes
    low, high = axis.get_xlim()
    ends = [value for line in axis.lines for value in line.get_xdata() if np.isfinite(value)]
    assert low < min(ends)
    assert high > max(ends)
    assert not axis.texts
