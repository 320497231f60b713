"""The figure of cost, read back from its axes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lplgrad.machine.errors import UserError
from lplgrad.report.cost import cost
from lplgrad.study.settings import StudyFile
from tests.made_up_study import STUDY, TWO, stopping, study, study_of

TITLES = ["LPLgrad", "Entropy", "Random"]


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def timings_of(frame: pd.DataFrame, train: float = 10.0, query: float = 3.0) -> pd.DataFrame:
    """Seconds that are equal for all rounds; the last round of a trial has no query."""
    last = frame.groupby("strategy")["round"].transform("max")
    return frame.assign(train_seconds=train, query_seconds=np.where(frame["round"] == last, np.nan, query))


def marks(axis: Any) -> dict[str, float]:
    """The seconds of the markers, by the titles of their rows."""
    titles = [text.get_text() for text in axis.get_yticklabels()]
    return {titles[int(line.get_ydata()[0])]: line.get_xdata()[0] for line in axis.lines}


def test_seconds_add_up_before_a_model_is_there() -> None:
    """The model of round 2 costs both trainings and the query between them."""
    frame = study(seeds=1, rounds=2)
    above, below = cost(frame, timings_of(frame), STUDY, "small").axes
    assert [list(line.get_xdata()) for line in above.lines] == [[10, 23]] * 3
    assert marks(below) == dict.fromkeys(TITLES, 23)
    assert [text.get_text() for text in below.texts] == ["20 + 3.0"] * 3 + ["training + queries"]


def test_a_stopped_trial_ends_the_figure_for_all() -> None:
    frame = stopping(study(rounds=6), "lplgrad", 2, 4)
    above, below = cost(frame, timings_of(frame), STUDY, "small").axes
    assert [line.get_xdata()[-1] for line in above.lines] == [4 * 10 + 3 * 3] * 3
    assert marks(below) == dict.fromkeys(TITLES, 4 * 10 + 3 * 3)


def test_one_slow_trial_moves_neither_markers_nor_curves() -> None:
    frame = study(seeds=3, rounds=3)
    seconds = frame["seed"].map({1: 10, 2: 20, 3: 900})
    timings = timings_of(frame).assign(train_seconds=seconds, query_seconds=0.004)
    above, below = cost(frame, timings, STUDY, "small").axes
    assert marks(below) == dict.fromkeys(TITLES, pytest.approx(60.008))
    assert below.texts[0].get_text() == "60 + 0.01"
    assert [list(line.get_xdata()) for line in above.lines] == [pytest.approx([20, 40.004, 60.008])] * 3


@pytest.mark.parametrize(("factor", "scale"), [(9.0, "linear"), (11.0, "log")])
def test_the_axis_is_logarithmic_if_seconds_differ_widely(factor: float, scale: str) -> None:
    frame = study(panels=TWO)
    slow = (frame["strategy"] == "entropy") & (frame["dataset"] == TWO[-1][1])
    timings = timings_of(frame, query=0.0).assign(train_seconds=np.where(slow, factor, 1.0))
    axes = cost(frame, timings, study_of(frame), TWO[0][0]).axes
    assert {axis.get_xscale() for axis in axes} == {scale}
    assert len(axes) == 2 * len({dataset for budget, dataset in TWO if budget == TWO[0][0]})


@pytest.mark.parametrize("factor", [30.0, 3000.0])
def test_numbers_of_a_logarithmic_axis_do_not_touch(factor: float) -> None:
    frame = study(rounds=2)
    seconds = np.where(frame["strategy"] == "entropy", 100 * factor, 100.0)
    figure = cost(frame, timings_of(frame).assign(train_seconds=seconds), STUDY, "small")
    figure.draw_without_rendering()
    low, high = figure.axes[1].get_xlim()
    labels = [text for text in figure.axes[1].get_xticklabels() if low <= text.get_position()[0] <= high]
    boxes = [text.get_window_extent() for text in labels]
    assert len(boxes) >= 3
    assert all(one.x1 + 5 < other.x0 for one, other in pairwise(boxes))


def test_data_sets_may_differ_widely_on_a_linear_axis() -> None:
    frame = study(panels=(("small", "digits"), ("small", "cifar10")))
    run = STUDY.study.run.model_copy(update={"datasets": ["digits", "cifar10"]})
    file = StudyFile.model_construct(study=STUDY.study.model_copy(update={"run": run}))
    seconds = np.where(frame["dataset"] == "digits", 10.0, 1000.0)
    axes = cost(frame, timings_of(frame).assign(train_seconds=seconds), file, "small").axes
    assert [axis.get_xscale() for axis in axes] == ["linear"] * 4
    seconds_drawn = [{line.get_xdata()[0] for line in axis.lines} for axis in axes[2:]]
    assert seconds_drawn == [{4 * 10 + 3 * 3}, {4 * 1000 + 3 * 3}]


@pytest.mark.parametrize("how", ["no query seconds", "no row"])
def test_a_trial_without_some_seconds_does_not_count(how: str) -> None:
    frame = study(seeds=2)
    timings = timings_of(frame)
    lacking = (frame["round"] == 2) & ((frame["strategy"] == "entropy") | (frame["seed"] == 1))
    if how == "no row":
        timings = timings[~lacking]
    else:
        timings.loc[lacking, "query_seconds"] = np.nan
    timings.loc[timings["seed"] == 2, "train_seconds"] = 20.0
    below = cost(frame, timings, STUDY, "small").axes[1]
    assert marks(below) == {"LPLgrad": 89, "Random": 89}
    (axis,) = cost(frame, timings[timings["round"] == 1], STUDY, "small").axes
    assert axis.texts[0].get_text().startswith("No cost to show")


def test_an_unknown_budget() -> None:
    with pytest.raises(UserError, match="no budget 'smal'"):
        cost(study(), timings_of(study()), STUDY, "smal")
