"""Draw a figure, in every format that the endings of the outputs name; figures of learning curves."""

from __future__ import annotations

import argparse
import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lplgrad.analysis.comparison import random_of
from lplgrad.machine.errors import UserError, nearest
from lplgrad.report import style
from lplgrad.report.curves import beside_panel, draw_curve, high_enough, legend, looks, looks_of, number_ends
from lplgrad.report.document import check_endings
from lplgrad.report.kinds import function_of, inputs_of
from lplgrad.report.style import TITLE_WIDTH, note, set_up, wrapped
from lplgrad.report.wording import dataset_title, strategy_title, strategy_titles
from lplgrad.study.settings import StudyFile


def run(arguments: argparse.Namespace) -> None:
    """Draw a figure of the kind that is named, and write it."""
    check_endings(arguments.output, (".svg", ".pdf", ".png"))
    inputs = inputs_of(arguments)
    if arguments.highlight:
        inputs["file"] = _highlighting(inputs["file"], arguments.highlight)
    figure = function_of(arguments)(**inputs)
    if "trial" in inputs:
        style.title_of_trial(figure, inputs["file"], inputs["trial"])
    style.save(figure, arguments.output)


def _highlighting(file: StudyFile, names: list[str]) -> StudyFile:
    """Return the study with other strategies to highlight."""
    for name in names:
        if name not in file.study.run.strategies:
            hint = nearest(name, file.study.run.strategies)
            raise UserError(f"--highlight: the study does not run {name!r} ({hint})")
    return StudyFile(study=file.study.model_copy(update={"highlight": names}), unavailable=file.unavailable)


def learning_curves(measurements: pd.DataFrame, file: StudyFile, budget: str) -> Any:
    """Draw accuracy against labels with one budget, a column per data set (the paper's figures 3 and 4)."""
    part = measurements[measurements["budget"] == budget]
    datasets = [name for name in file.study.run.datasets if name in set(part["dataset"])]
    panels = {wrapped(dataset_title(file, name), 46): part[part["dataset"] == name] for name in datasets}
    return _curve_panels(panels, file, random_of(measurements))


def dataset_curves(measurements: pd.DataFrame, file: StudyFile, dataset: str) -> Any:
    """Draw accuracy against labels on one data set, a column per budget (the paper's figure 5)."""
    part = measurements[measurements["dataset"] == dataset]
    budgets = [name for name in file.study.run.budgets if name in set(part["budget"])]
    panels = {f"{name} budget": part[part["budget"] == name] for name in budgets}
    return _curve_panels(panels, file, random_of(measurements))


def _curve_panels(panels: dict[str, pd.DataFrame], file: StudyFile, baseline: str | None) -> Any:
    """Draw accuracy against labels, and below it the gain over random labelling, a column per panel.

    Means over seeds with one standard deviation (see ``draw_curve``); the gain is computed within each seed. A curve
    ends where the first trial of its strategy does. A star marks where a trial stopped at its target accuracy. If there
    is no gain to show, the lower row is left out and a note says why.
    """
    set_up()
    panels = {title: part.assign(accuracy=part["accuracy"] * 100) for title, part in panels.items()}
    gains = {title: _gain(part, baseline) for title, part in panels.items()}
    rows = 1 if all(gain.empty for gain in gains.values()) else 2
    appearance = looks_of(file)
    heights = [high_enough(height, appearance) for height in (3.6, 2.4)[:rows]]
    figure, axes = plt.subplots(
        rows, len(panels), figsize=((5.2 + beside_panel(appearance)) * len(panels) + 1.6, sum(heights)), squeeze=False,
        sharex="col", height_ratios=(3, 2)[:rows],
    )  # fmt: skip
    handles: dict[str, Any] = {}
    drawn = []
    for column, (title, part) in enumerate(panels.items()):
        axis = axes[0, column]
        drawn.append((axis, _curves(axis, part, file, "accuracy")))
        handles |= drawn[-1][1]
        _mark_stops(axis, part, file)
        axis.set_title(title, loc="left")
        axis.set_ylabel("test accuracy (%)")
        if rows == 2:
            axis = axes[1, column]
            drawn.append((axis, _curves(axis, gains[title], file, "gain")))
            axis.axhline(0, color="#3C3C3C", linewidth=0.8)
            over = wrapped(f"gain over {strategy_title(file, baseline)}", 28) if baseline else ""
            axis.set_ylabel(f"{over}\n(points, paired)")
        axis.set_xlabel("labelled examples")
    legend(figure, handles, strategy_titles(file, handles), "outside right center", appearance)
    if rows == 1:
        note(figure, _without_gains(file, baseline))
    number_ends(figure, drawn, appearance)
    return figure


def _without_gains(file: StudyFile, baseline: str | None) -> str:
    if baseline is None:
        return "Gains over labelling at random are left out: no strategy here labels at random."
    return f"Gains over {strategy_title(file, baseline)} are left out: no other strategy ran on a seed that it has."


def _gain(part: pd.DataFrame, baseline: str | None) -> pd.DataFrame:
    """Add a column gain: accuracy minus that of the baseline on the same seed."""
    key = ["dataset", "seed", "round"]
    other = part.loc[part["strategy"] == baseline, [*key, "accuracy"]]
    paired = part[part["strategy"] != baseline].merge(other, on=key, suffixes=("", "_baseline"))
    return paired.assign(gain=paired["accuracy"] - paired["accuracy_baseline"])


def _curves(axis: Any, part: pd.DataFrame, file: StudyFile, value: str) -> dict[str, Any]:
    """Draw the curve of every strategy; return the lines by the names of the strategies."""
    lines: dict[str, Any] = {}
    bounds = (0, 100) if value == "accuracy" else (-math.inf, math.inf)
    for name, look in looks_of(file).items():
        mine = part[part["strategy"] == name]
        if mine.empty:
            continue
        curve = mine.groupby("labels")[value].agg(["mean", "std", "count"])
        curve = curve[curve["count"] == curve["count"].max()]
        title = strategy_title(file, name)
        lines[name] = draw_curve(axis, look, title, curve.index, curve["mean"], curve["std"], bounds, linewidth=1.6)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7, min_n_ticks=1))
    return lines


def _mark_stops(axis: Any, part: pd.DataFrame, file: StudyFile) -> None:
    for name, look in looks_of(file).items():
        stops = part[(part["strategy"] == name) & (part["repeats"] > 0)]
        axis.plot(stops["labels"], stops["accuracy"], "*", color=look.color, markersize=10, markeredgecolor="white")


def strategy(
    measurements: pd.DataFrame, classes: pd.DataFrame, file: StudyFile, budget: str, dataset: str, strategy: str
) -> Any:
    """Draw one strategy alone: the curve of every seed, and the accuracy of every class over the rounds."""
    set_up()
    chosen = "budget == @budget and dataset == @dataset and strategy == @strategy"
    part = measurements.query(chosen).assign(accuracy=lambda frame: frame["accuracy"] * 100)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1, 1.25))
    look = looks(file.study.run.strategies)[strategy]
    for _, curve in part.groupby("seed"):
        left.plot(curve["labels"], curve["accuracy"], color=look.color, alpha=0.45, linewidth=1)
    mean = part.groupby("labels")["accuracy"].mean()
    left.plot(mean.index, mean, color=look.color, marker=look.marker, linewidth=2, markeredgecolor="white")
    if len(mean) == 1:
        left.set_xticks(mean.index)
    left.set_xlabel("labelled examples")
    left.set_ylabel("test accuracy (%)")
    left.set_title(wrapped(f"{strategy_title(file, strategy)}: every seed, and the mean", 54), loc="left")
    grid = classes.query(chosen).assign(accuracy=lambda frame: frame["accuracy"].astype(float) * 100)
    grid = grid.drop_duplicates(["seed", "labels", "class"])  # a stopped trial repeats its last round
    grid = grid.pivot_table(index="class", columns="labels", values="accuracy", sort=False)
    many = len(grid) > 20
    if many:
        grid = grid.sort_values(grid.columns[-1]).head(20)
    grid.index = pd.Index([wrapped(name, TITLE_WIDTH) for name in grid.index])
    sns.heatmap(
        grid, ax=right, cmap="viridis", vmin=0, vmax=100, cbar_kws={"label": "accuracy (%)"},
        annot=len(grid) <= 12, fmt=".0f", annot_kws={"size": 7}, linewidths=0.4 if grid.shape[1] <= 60 else 0,
    )  # fmt: skip
    right.grid(False)
    right.tick_params(axis="y", rotation=0)
    right.set_xlabel("labelled examples")
    right.set_ylabel("class")
    shown = "the 20 classes of lowest final accuracy" if many else "accuracy by class"
    right.set_title(f"{shown}, mean over seeds", loc="left")
    return figure
