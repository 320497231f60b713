"""Figures of intervals, a row per strategy: differences from the reference, and gains over random labelling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.transforms import offset_copy

from lplgrad.analysis.curves import CELL
from lplgrad.analysis.inference import ALPHA
from lplgrad.analysis.statistics import statistics
from lplgrad.report.curves import DARK, GREY_TEXT, beside_axis, colors_of, looks, set_back
from lplgrad.report.style import message, set_up, wrapped
from lplgrad.report.wording import MANY, p_value, panel_title, signed, strategy_title
from lplgrad.study.settings import StudyFile

# Values of more than this multiple of the median size would squeeze all others. So the axis ends before them, if that
# leaves it shorter by this factor.
OUTLYING, SHORTER = 4, 1.5

# Draw the rows of some strategies on an axis, from the part of a frame that belongs to its panel.
Draw = Callable[[Any, pd.DataFrame, list[str], StudyFile], None]


def differences(file: StudyFile, measurements: pd.DataFrame) -> Any:
    """Draw the area of the reference minus that of every other strategy, with t intervals.

    A row per budget, a column per data set.
    """
    set_up()
    found = statistics(measurements, file.study.run.strategies)
    frame = found.differences[found.differences["family"].astype(bool)]
    if frame.empty:
        if len(found.strategies) == 1:
            return message("There is one strategy, so there is no difference to show.")
        return message(f"No comparison with {strategy_title(file, found.reference)}: no seed has both areas.")
    title = strategy_title(file, found.reference)
    below = f"{title} minus the strategy named: area under the learning curve, points"
    return _forests(file, frame.assign(row=frame["baseline"]), _draw_differences, below)


def gains(file: StudyFile, measurements: pd.DataFrame) -> Any:
    """Draw by how much the area of every strategy exceeds that of random labelling, with t intervals.

    A filled marker compares with random labelling by the same recipe, so it shows what the queries bring. A hollow one
    compares with the study's random labelling, if that has another recipe. A row per budget, a column per data set.
    """
    set_up()
    found = statistics(measurements, file.study.run.strategies)
    frame = found.gains
    if frame.empty:
        return message(
            "There is no gain over random labelling to show: "
            + ("no seed has two areas to compare." if found.baseline else "no strategy here labels at random.")
        )
    # A strategy with the recipe of the study's random labelling has one comparison, as total and as query; keep query.
    frame = frame[frame["gain"] != "training"].drop_duplicates([*CELL, "baseline"], keep="last")
    below = "gain over random labelling: area under the learning curve, points"
    figure = _forests(file, frame.assign(row=frame["strategy"]), _draw_gains, below)
    if (frame["gain"] == "total").any():
        style: dict[str, Any] = {"marker": "o", "color": GREY_TEXT, "linestyle": ""}
        handles = [Line2D([], [], **style), Line2D([], [], markerfacecolor="white", **style)]
        over = strategy_title(file, found.baseline or "")
        texts = [
            "from queries: compared with random labelling by the same recipe",
            f"from queries and training: compared with {over}",
        ]
        figure.legend(handles, [wrapped(text, 46) for text in texts], loc="outside upper left", ncols=2, fontsize=8)
    return figure


def _forests(file: StudyFile, frame: pd.DataFrame, draw: Draw, below: str) -> Any:
    """Draw a row for each strategy in the column ``row`` of a frame: a panel per budget and data set."""
    run = file.study.run
    budgets = [name for name in run.budgets if name in set(frame["budget"])]
    datasets = [name for name in run.datasets if name in set(frame["dataset"])]
    rows = [name for name in run.strategies if name in set(frame["row"])]
    beside = [beside_axis(file, name).splitlines() for name in rows]
    lines = max(map(len, beside))
    longest = max(len(line) for title in beside for line in title)
    row = 0.16 * lines + (0.1 if len(run.strategies) > MANY else 0.22)
    figure, axes = plt.subplots(
        len(budgets), len(datasets), squeeze=False, sharey=True,
        figsize=(
            max(2.9 * len(datasets) + 1.6, 6.5) + 0.07 * max(longest - 18, 0),
            (row * len(rows) + 1.15) * len(budgets) + 0.5,
        ),
    )  # fmt: skip
    for line, budget in enumerate(budgets):
        for column, dataset in enumerate(datasets):
            axis = axes[line, column]
            axis.axvline(0, color=DARK, linewidth=0.9)
            part = frame[(frame["budget"] == budget) & (frame["dataset"] == dataset)]
            draw(axis, part, rows, file)
            _point_to_outliers(axis, part)
            axis.set_yticks(range(len(rows)), [beside_axis(file, name) for name in rows])
            set_back(file, axis.get_yticklabels(), rows)
            axis.set_ylim(len(rows) - 0.4, -1.05)
            axis.grid(len(run.strategies) > MANY, axis="y")
            wide = 32 if len(datasets) > 1 else 60
            axis.set_title(
                wrapped(panel_title(file, {"budget": budget, "dataset": dataset}), wide), loc="left", fontsize=10
            )
    figure.supxlabel(wrapped(below, round(13.5 * figure.get_figwidth())), fontsize=10)
    return figure


def _point_to_outliers(axis: Any, part: pd.DataFrame) -> None:
    """End the axis before values that are many times as large as most; arrows at its edge point to them."""
    rows = part[["low", "high", "difference"]].to_numpy(dtype=float)
    ends = rows[np.isfinite(rows)]
    if not len(ends):
        return
    most = OUTLYING * float(np.median(np.abs(ends)))
    near = rows[~(np.abs(rows[:, 2]) > most)]  # without intervals that reach in from an outlier
    kept = near[np.abs(near) <= most]
    low, high = min(0.0, *kept), max(0.0, *kept)
    if most == 0 or max(ends) - min(ends) <= SHORTER * (high - low):
        return
    margin = 0.05 * (high - low)
    low, high = (low - margin * (5 if min(ends) < low else 1), high + margin * (5 if max(ends) > high else 1))
    lines = list(axis.lines)
    axis.set_xlim(low, high)
    for line in lines:
        if min(line.get_xdata()) < low:
            _point_outwards(axis, line, low, 1)
        if max(line.get_xdata()) > high:
            _point_outwards(axis, line, high, -1)


def _point_outwards(axis: Any, line: Line2D, edge: float, inwards: int) -> None:
    """Draw an arrow to an edge of the axis. If the line is a marker, also its marker and its value."""
    values, level = np.asarray(line.get_xdata()), float(np.asarray(line.get_ydata())[0])
    arrow = {"arrowstyle": "->", "color": line.get_color(), "shrinkA": 0, "shrinkB": 1, "mutation_scale": 7}
    axis.annotate("", (edge, level), xytext=(9 * inwards, 0), textcoords="offset points", arrowprops=arrow)
    if len(values) > 1:
        return
    beside = offset_copy(axis.transData, axis.figure, x=12 * inwards, units="points")
    (marker,) = axis.plot(edge, level, transform=beside)
    transform = marker.get_transform()
    marker.update_from(line)
    marker.set_transform(transform)
    axis.annotate(
        signed(values[0], 1), (edge, level), xytext=(17 * inwards, 0), textcoords="offset points",
        ha="left" if inwards > 0 else "right", va="center", fontsize=6.5, color=DARK,
        bbox={"facecolor": "white", "linewidth": 0, "pad": 0.4},
    )  # fmt: skip


def _draw_differences(axis: Any, part: pd.DataFrame, rows: list[str], file: StudyFile) -> None:
    part = part.set_index("row")
    appearance, colors = looks(file.study.run.strategies), colors_of(file)
    many = len(file.study.run.strategies) > MANY
    for place, name in enumerate(rows):
        if name not in part.index:
            axis.text(0, place, " no pairs", va="center", fontsize=8, color="#666666")
            continue
        row, color = part.loc[name].to_dict(), colors[name]
        if not math.isnan(row["low"]):
            axis.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.8)
        filled = color if row["p_holm"] < ALPHA else "white"
        axis.plot(
            row["difference"], place, marker=appearance[name].marker, color=color, markerfacecolor=filled,
            markersize=6 if many else 7, markeredgewidth=1.4,
        )  # fmt: skip
        axis.annotate(
            p_value(row["p_holm"]), (1.0, place), xycoords=("axes fraction", "data"), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axis.annotate("p, Holm", (1.0, -0.75), xycoords=("axes fraction", "data"), xytext=(3, 0),
                  textcoords="offset points", va="center", fontsize=8, color="#666666")  # fmt: skip


def _draw_gains(axis: Any, part: pd.DataFrame, rows: list[str], file: StudyFile) -> None:
    appearance, colors = looks(file.study.run.strategies), colors_of(file)
    size = 6 if len(file.study.run.strategies) > MANY else 7
    for place, name in enumerate(rows):
        mine = {row["gain"]: row for row in part[part["row"] == name].to_dict("records")}
        if not mine:
            axis.text(0, place, " no pairs", va="center", fontsize=8, color="#666666")
        for gain, lift, filled in (("total", 0.17, False), ("query", -0.17, True)):
            if gain not in mine:
                continue
            row, color = mine[gain], colors[name]
            level = place + (lift if len(mine) > 1 else 0)
            axis.plot([row["low"], row["high"]], [level, level], color=color, linewidth=1.6 if filled else 0.9)
            axis.plot(
                row["difference"], level, marker=appearance[name].marker, color=color,
                markerfacecolor=color if filled else "white", markersize=size if filled else size - 1.5,
                markeredgewidth=1.2,
            )  # fmt: skip
