"""The figure of cost: accuracy against seconds, and what each strategy spends on training and on queries."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from lplgrad.analysis.curves import CELL, TRIAL, compared
from lplgrad.report.comparison_figures import Lines, draw_lines, of_budget
from lplgrad.report.curves import (
    GREY_TEXT,
    beside_axis,
    beside_panel,
    colors_of,
    high_enough,
    looks,
    looks_of,
    number_ends,
    set_back,
)
from lplgrad.report.style import message, set_up, wrapped
from lplgrad.report.wording import dataset_title
from lplgrad.study.settings import StudyFile

# If strategies differ by more than this factor on a data set, the axes of seconds are logarithmic.
WIDE = 10


def cost(measurements: pd.DataFrame, timings: pd.DataFrame, file: StudyFile, budget: str) -> Any:
    """Draw accuracy against the seconds spent so far; below it, the seconds of every strategy at the end of its curve.

    A column per data set. Beside a strategy's marker stand its seconds of training and those of its queries. Seconds
    are medians over the seeds, because other work on the machine slows some trials and not others.
    """
    set_up()
    spent = _spent(of_budget(compared(measurements), budget), timings)
    if spent.empty:
        return message(f'No cost to show: with the budget "{budget}" no trial has the seconds of all its rounds.')
    seconds = ["seconds", "train", "query"]
    totals = spent.groupby(TRIAL, sort=False).last().groupby(CELL)[seconds].median().reset_index()
    spent[seconds] = spent.groupby([*CELL, "round"])[seconds].transform("median")
    datasets = [name for name in file.study.run.datasets if name in set(spent["dataset"])]
    names = [name for name in file.study.run.strategies if name in set(spent["strategy"])]
    appearance = looks_of(file)
    numbers = {name: f"{look.number}  " if look.number else "" for name, look in appearance.items()}
    titles = [numbers[name] + beside_axis(file, name) for name in names]
    longest = max(len(line) for title in titles for line in title.splitlines())
    above = high_enough(2.8, appearance)
    below = (0.1 + 0.16 * max(title.count("\n") + 1 for title in titles)) * (len(names) + 1)
    wide = 3.4 + max(beside_panel(appearance), 1.2)
    figure, axes = plt.subplots(
        2, len(datasets), squeeze=False, sharex="col", sharey="row", height_ratios=(above, below),
        figsize=(wide * len(datasets) + 0.6 + 0.07 * longest, above + below + 1.1),
    )  # fmt: skip
    ends = totals.groupby("dataset")["seconds"].agg(["min", "max"])
    logarithmic = bool(ends["min"].min() > 0 and (ends["max"] > WIDE * ends["min"]).any())
    drawn = []
    for dataset, (curves, rows) in zip(datasets, axes.T, strict=True):
        part = Lines(spent, "accuracy", "test accuracy (%)", (0, 100), "seconds")
        lines = draw_lines(curves, part, spent[spent["dataset"] == dataset], file)
        drawn.append((curves, {name: line for name, line in lines.items() if appearance[name].spread}))
        curves.set_title(wrapped(dataset_title(file, dataset), 30), loc="left")
        _draw_totals(rows, totals[totals["dataset"] == dataset], names, file)
        _scale(curves, rows, logarithmic)
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[1, 0].set_yticks(range(len(names)), titles)
    set_back(file, axes[1, 0].get_yticklabels(), names)
    number_ends(figure, drawn, appearance)
    return figure


def _spent(part: pd.DataFrame, timings: pd.DataFrame) -> pd.DataFrame:
    """Add the columns train, query and seconds: what a trial has spent until the model of a round is there.

    Trials that lack some of these seconds are left out, because their sums would be too small.
    """
    order = timings.sort_values([*TRIAL, "round"])
    before = order.groupby(TRIAL)["query_seconds"].shift(fill_value=0)
    steps = order[[*TRIAL, "round"]].assign(train=order["train_seconds"], query=before)
    spent = part.merge(steps, how="left", on=[*TRIAL, "round"]).sort_values([*TRIAL, "round"])
    known = spent[["train", "query"]].notna().all(axis="columns")
    spent = spent[known.groupby([spent[name] for name in TRIAL]).transform("all")]
    spent = spent.assign(**spent.groupby(TRIAL)[["train", "query"]].cumsum())
    return spent.assign(seconds=spent["train"] + spent["query"])


def _draw_totals(axis: Any, part: pd.DataFrame, names: list[str], file: StudyFile) -> None:
    appearance, colors = looks(file.study.run.strategies), colors_of(file)
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center", "fontsize": 8}
    for row in part.to_dict("records"):
        name, place = str(row["strategy"]), names.index(str(row["strategy"]))
        axis.plot(row["seconds"], place, marker=appearance[name].marker, color=colors[name], markersize=6)
        axis.annotate(f"{_seconds(row['train'])} + {_seconds(row['query'])}", (1.0, place), xytext=(4, 0), **beside)
    axis.annotate("training + queries", (1.0, -0.8), xytext=(4, 0), color=GREY_TEXT, **beside)
    axis.set_ylim(len(names) - 0.5, -1.2)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("seconds of training and querying")


def _seconds(value: float) -> str:
    """Write seconds, with decimals if they are few."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def _scale(curves: Any, rows: Any, logarithmic: bool) -> None:
    if logarithmic:
        rows.set_xscale("log")
        low, high = rows.get_xlim()
        decades = math.log10(high / low)
        # Numbers must not touch, and "1,000,000" is long.
        subs = (1.0, 2.0, 5.0) if decades < 1.5 else (1.0, 3.0) if decades < 2.5 else (1.0,)
        rows.xaxis.set_major_locator(LogLocator(subs=subs))
        rows.xaxis.set_minor_locator(NullLocator())
    else:
        rows.set_xlim(left=0)
    rows.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    curves.tick_params(labelbottom=True)
