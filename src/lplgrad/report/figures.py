"""Figures, from measurements alone."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lplgrad.errors import UserError, nearest
from lplgrad.report.style import looks, set_up
from lplgrad.report.tables import dataset_title, strategy_title
from lplgrad.settings import StudyFile


def learning_curves(measurements: pd.DataFrame, file: StudyFile, budget: str) -> Any:
    """Accuracy against labels, and below it what each strategy gains over random, a column per data set.

    Means over seeds with bands of one standard deviation; the gain is taken seed by seed before both. The lower row is
    left out where the study has no strategy that labels at random.
    """
    set_up()
    part = measurements[measurements["budget"] == budget].assign(accuracy=lambda frame: frame["accuracy"] * 100)
    datasets = [name for name in file.study.run.datasets if name in set(part["dataset"])]
    if not datasets:
        raise UserError(f"the measurements have no budget {budget!r} ({nearest(budget, set(measurements['budget']))})")
    gains = _gain_over_random(part)
    rows = 1 if gains.empty else 2
    figure, axes = plt.subplots(
        rows, len(datasets), figsize=(5.2 * len(datasets) + 1.6, 3.6 + 2.4 * (rows - 1)), squeeze=False, sharex="col",
        height_ratios=(3, 2)[:rows],
    )  # fmt: skip
    for column, dataset in enumerate(datasets):
        axis = axes[0, column]
        _curves(axis, part[part["dataset"] == dataset], file, "accuracy")
        axis.set_title(dataset_title(file, dataset), loc="left")
        axis.set_ylabel("test accuracy (%)")
        if rows == 2:
            axis = axes[1, column]
            _curves(axis, gains[gains["dataset"] == dataset], file, "gain")
            axis.axhline(0, color="#3C3C3C", linewidth=0.8)
            axis.set_ylabel("gain over random\n(points, paired)")
        axis.set_xlabel("labelled images")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", handlelength=3.2)
    return figure


def _gain_over_random(part: pd.DataFrame) -> pd.DataFrame:
    """The measurements with a column gain: accuracy minus that of the strategy that labels at random, seed by seed."""
    key = ["dataset", "seed", "round"]
    random = part[(part["acquisition"] == "random")].drop_duplicates(key)[[*key, "accuracy"]]
    paired = part[part["acquisition"] != "random"].merge(random, on=key, suffixes=("", "_random"))
    return paired.assign(gain=paired["accuracy"] - paired["accuracy_random"])


def _curves(axis: Any, part: pd.DataFrame, file: StudyFile, value: str) -> None:
    strategies = [name for name in file.study.run.strategies if name in set(part["strategy"])]
    for name, look in looks(file.study.run.strategies).items():
        if name not in strategies:
            continue
        curve = part[part["strategy"] == name].groupby("labels")[value].agg(["mean", "std"])
        axis.plot(
            curve.index, curve["mean"], color=look.color, marker=look.marker, markersize=5, linewidth=1.6,
            dashes=look.dashes or (None, None), label=strategy_title(file, name), markeredgecolor="white",
            markeredgewidth=0.6,
        )  # fmt: skip
        spread = curve["std"].fillna(0)
        axis.fill_between(
            curve.index, curve["mean"] - spread, curve["mean"] + spread, color=look.color, alpha=0.1, linewidth=0
        )
    axis.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))


def strategy(
    measurements: pd.DataFrame, classes: pd.DataFrame, file: StudyFile, budget: str, dataset: str, name: str
) -> Any:
    """One strategy alone: the curve of every seed, and the accuracy of every class over the rounds."""
    set_up()
    chosen = "budget == @budget and dataset == @dataset and strategy == @name"
    part = measurements.query(chosen).assign(accuracy=lambda frame: frame["accuracy"] * 100)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(1, 1.25))
    look = looks(file.study.run.strategies)[name]
    for _, curve in part.groupby("seed"):
        left.plot(curve["labels"], curve["accuracy"], color=look.color, alpha=0.45, linewidth=1)
    mean = part.groupby("labels")["accuracy"].mean()
    left.plot(mean.index, mean, color=look.color, marker=look.marker, linewidth=2, markeredgecolor="white")
    left.set_xlabel("labelled images")
    left.set_ylabel("test accuracy (%)")
    left.set_title(f"{strategy_title(file, name)}: every seed, and the mean", loc="left")
    grid = classes.query(chosen).assign(accuracy=lambda frame: frame["accuracy"].astype(float) * 100)
    grid = grid.pivot_table(index="class", columns="labels", values="accuracy", sort=False)
    if len(grid) > 20:  # name the ones worth a look: those that end lowest
        grid = grid.sort_values(grid.columns[-1]).head(20)
    sns.heatmap(
        grid, ax=right, cmap="viridis", vmin=0, vmax=100, cbar_kws={"label": "accuracy (%)"},
        annot=len(grid) <= 12, fmt=".0f", annot_kws={"size": 7}, linewidths=0.4,
    )  # fmt: skip
    right.grid(False)
    right.tick_params(axis="y", rotation=0)
    right.set_xlabel("labelled images")
    right.set_ylabel("class")
    shown = "accuracy by class" if len(grid) < 20 else "the 20 classes of lowest final accuracy"
    right.set_title(f"{shown}, mean over seeds", loc="left")
    return figure
