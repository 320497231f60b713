"""Figures of how strategies compare: wins, ranks, calibration, and what the queries chose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, MaxNLocator

from lplgrad.analysis.comparison import reference_of
from lplgrad.analysis.curves import TRIAL, until_first_end
from lplgrad.analysis.inference import ALPHA
from lplgrad.analysis.measured import read_diagnostics
from lplgrad.analysis.statistics import statistics
from lplgrad.machine.errors import UserError, nearest
from lplgrad.report.curves import (
    DARK,
    LONG_TITLE_WIDTH,
    beside_axis,
    beside_panel,
    colors_of,
    draw_curve,
    high_enough,
    legend,
    looks,
    looks_of,
    number_ends,
    set_back,
)
from lplgrad.report.statistics import rank_text
from lplgrad.report.style import message, note, set_up, wrapped
from lplgrad.report.wording import (
    MANY,
    dataset_title,
    number,
    strategy_title,
    strategy_titles,
)
from lplgrad.study.settings import StudyFile


def penalties(file: StudyFile, measurements: pd.DataFrame) -> Any:
    """Draw the pairwise penalty matrix, and below it how often each strategy is beaten."""
    set_up()
    shares = statistics(measurements, file.study.run.strategies).penalty_matrix()
    names = list(shares.index)
    if len(names) < 2:
        return message("There is no pair of strategies to compare.")
    grid = np.vstack([shares.to_numpy(), shares.mean().to_numpy()])
    titles = [beside_axis(file, name) for name in names]
    more = max(title.count("\n") for title in titles)
    many = len(names) > MANY
    longest = max(len(line) for title in titles for line in title.splitlines())
    wide, high = 1.0 * len(names) + 2.6 + more, (0.62 + 0.12 * more) * len(names) + 2.2 + 0.5 * more
    if many:
        wide = max(0.42, 0.12 + 0.22 * (1 + more)) * len(names) + 1.5 + 0.07 * longest
        high = max(0.27, 0.1 + 0.17 * (1 + more)) * (1 + len(names)) + 1.5 + 0.07 * longest
    figure, axis = plt.subplots(figsize=(wide, high))
    image = axis.imshow(grid, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if row != column:
            color = "white" if value > 0.55 else "black"
            axis.text(column, row, number(value), ha="center", va="center", color=color, fontsize=7 if many else None)
    axis.axhline(len(names) - 0.5, color="black", linewidth=1.2)
    turned = {"rotation": 50, "rotation_mode": "anchor"} if many else {"rotation": 30}
    axis.set_xticks(range(len(names)), titles, ha="right", **turned)
    axis.set_yticks(range(len(names) + 1), [*(f"{title} beats" for title in titles), "mean: is beaten"])
    set_back(file, axis.get_xticklabels(), names)
    set_back(file, axis.get_yticklabels()[:-1], names)
    axis.tick_params(length=0)
    axis.grid(False)
    if many:  # lines between cells guide the eye
        axis.set_xticks(np.arange(len(names)) + 0.5, minor=True)
        axis.set_yticks(np.arange(len(names)) + 0.5, minor=True)
        axis.tick_params(which="minor", length=0)
        axis.grid(True, which="minor", color="#E4E4E4", linewidth=0.5)
    axis.set_title(f"share of wins (by chance alone: {ALPHA / 2:g})", loc="left", fontsize=10)
    bar = figure.colorbar(image, ax=axis, shrink=0.8)
    bar.outline.set_visible(False)
    return figure


def ranks(file: StudyFile, measurements: pd.DataFrame) -> Any:
    """Draw average ranks on a line; bars join strategies whose ranks differ by less than the critical difference."""
    set_up()
    found = statistics(measurements, file.study.run.strategies)
    ranking = found.ranking
    values = ranking.ranks
    if len(values) < 2:
        return message(rank_text(found, file))
    size = len(values)
    half = (size + 1) // 2
    bars = len(ranking.groups)
    many = size > MANY
    letters = LONG_TITLE_WIDTH if many else 28
    shown = {
        str(name): wrapped(f"{strategy_title(file, str(name))} ({rank:.2f})", letters) for name, rank in values.items()
    }
    lines = 1 + max(text.count("\n") for text in shown.values())
    longest = max(len(line) for text in shown.values() for line in text.splitlines())
    row = 0.17 * lines + (0.08 if many else 0.15)
    wide = max(8, 5 + 0.16 * longest) if many else 8
    figure, axis = plt.subplots(figsize=(wide, 1.9 + row * half + 0.16 * bars))
    depth, step = 0.6 + 0.25 * bars, 0.55 * row / 0.32
    axis.set_xlim(0.2, size + 0.8)
    axis.set_ylim(depth + step * half + 0.3, -1.5)
    axis.axis("off")
    axis.plot([1, size], [0, 0], color=DARK, linewidth=1.2)
    for tick in range(1, size + 1):
        axis.plot([tick, tick], [0, -0.14], color=DARK, linewidth=1.2)
        if (tick - 1) % math.ceil(size / 15) == 0:
            axis.text(tick, -0.25, str(tick), ha="center", va="bottom", fontsize=10)
    appearance, colors = looks(file.study.run.strategies), colors_of(file)
    texts = []
    for place, (name, value) in enumerate(values.items()):
        left = place < half
        level = depth + step * (place if left else size - 1 - place)
        end, side = (0.75, "right") if left else (size + 0.25, "left")
        color = colors[str(name)]
        axis.plot([value, value, end], [0, level, level], color=color, linewidth=1.3)
        axis.plot(value, 0, marker=appearance[str(name)].marker, color=color, markersize=7, clip_on=False)
        beside = "\n".join(f"{line} " if left else f" {line}" for line in shown[str(name)].splitlines())
        texts.append(axis.text(end, level, beside, ha=side, va="center", fontsize=10))
    set_back(file, texts, shown)
    for height, (best, worst) in enumerate(ranking.groups):
        level = 0.3 + 0.25 * height
        axis.plot([values.iloc[best] - 0.05, values.iloc[worst] + 0.05], [level, level], color=DARK, linewidth=4)
    if not math.isnan(ranking.critical):
        axis.plot([1, 1 + ranking.critical], [-1.05, -1.05], color=DARK, linewidth=1.6)
        for end in (1, 1 + ranking.critical):
            axis.plot([end, end], [-0.95, -1.15], color=DARK, linewidth=1.6)
        axis.text(1 + ranking.critical, -1.05, f"  critical difference {ranking.critical:.2f}", va="center", fontsize=9)
    note(figure, rank_text(found, file))
    return figure


def calibration(file: StudyFile, diagnostics: Path, budget: str) -> Any:
    """Draw how sure the models are and should be, from the tables of ``lplgrad diagnostics``."""
    return draw_calibration(read_diagnostics(diagnostics, file)["calibration"], file, budget)


def choices(file: StudyFile, diagnostics: Path, budget: str) -> Any:
    """Draw what the queries chose, from the tables of ``lplgrad diagnostics``."""
    tables = read_diagnostics(diagnostics, file)
    return draw_choices(tables["choices"], tables["overlap"], file, budget)


def draw_calibration(frame: pd.DataFrame, file: StudyFile, budget: str) -> Any:
    """Draw calibration error, negative log-likelihood, and how well entropy ranks the losses; a column per data set."""
    part = until_first_end(of_budget(frame, budget))
    part = part.assign(calibration_error=part["calibration_error"] * 100)
    return _grid(
        file,
        [
            Lines(part, "calibration_error", "expected calibration\nerror (points)", (0, 100)),
            Lines(part, "negative_log_likelihood", "negative log-\nlikelihood (nats)", (0, math.inf)),
            Lines(
                part,
                "entropy_loss_correlation",
                "rank correlation of\nentropy and loss",
                (-1, 1),
                without="The correlation of entropy and loss is left out: one of the two is the same for all examples.",
            ),
        ],
    )


def draw_choices(frame: pd.DataFrame, overlap: pd.DataFrame, file: StudyFile, budget: str) -> Any:
    """Draw class balance, spread, overlap with the reference, and how the scores rank the errors.

    A column per data set. The frames are those of ``diagnostics.choices`` and ``diagnostics.overlap``; they have no row
    for a budget with which no query bought labels.
    """
    if budget in file.study.run.budgets and budget not in set(frame["budget"]):
        return message(
            f'No choices to show: with the budget "{budget}" no query bought labels, since it ends with round 1 or '
            "every trial reached its target accuracy there."
        )
    part = until_first_end(of_budget(frame, budget))
    reference = reference_of([name for name in file.study.run.strategies if name in set(part["strategy"])])
    turned = overlap.rename(columns={"strategy": "baseline", "baseline": "strategy"})
    common = pd.concat([overlap, turned], ignore_index=True)
    common = common[common["baseline"] == reference].merge(part[[*TRIAL, "round"]], on=[*TRIAL, "round"])
    title = strategy_title(file, reference)
    overlap_title = wrapped(f"overlap with {title}", 28)
    rows = [
        Lines(
            part, "balance_labeled", "class balance of\nthe labelled set", (0, 1),
            without="Class balance is left out: there is one class.",
        ),
        Lines(
            part, "spread", "spread of the chosen\n(random labelling: 1)", (0, math.inf), level=1.0,
            without="Spread is left out: a query chose one example, or examples that are all the same.",
        ),
        Lines(
            common, "jaccard", f"{overlap_title}\n(Jaccard)", (0, 1),
            without=f"Overlap with {title} is left out: no other strategy chose examples on its seeds.",
        ),
        Lines(
            part, "error_ranking", "probability that an error\noutscores a right one", (0, 1), level=0.5,
            without="The ranking of errors is left out: no queried model was both right and wrong on candidates.",
        ),
    ]  # fmt: skip
    silent = [name for name in file.study.run.datasets if name not in {*part["dataset"], *file.unavailable}]
    names = ", ".join(dataset_title(file, name) for name in silent)
    remark = f"Left out, since no query bought labels there: {names}." if silent else ""
    return _grid(file, [replace(row, over_title="labelled examples, after the query") for row in rows], remark)


@dataclass(frozen=True)
class Lines:
    """A row of panels."""

    frame: pd.DataFrame  # draw the column ``value`` over the column ``over`` of ``frame``
    value: str  # draw the column ``value`` over the column ``over`` of ``frame``
    title: str  # of the axes
    bounds: tuple[float, float]  # of the values
    over: str = "labels"  # draw the column ``value`` over the column ``over`` of ``frame``
    over_title: str = "labelled examples"  # of the axes
    level: float | None = None  # a horizontal line to compare with
    without: str = ""  # the note if no value is known, in which case the row is left out


def _grid(file: StudyFile, wanted: list[Lines], remark: str = "") -> Any:
    set_up()
    rows = [row for row in wanted if not row.without or row.frame[row.value].notna().any()]
    remarks = [row.without for row in wanted if row.without and not row.frame[row.value].notna().any()]
    remarks += [remark] if remark else []
    if not rows:
        return message(" ".join(remarks))
    datasets = _present(file.study.run.datasets, wanted[0].frame["dataset"])
    appearance = looks_of(file)
    wide, high = 3.6 + beside_panel(appearance), high_enough(2.5, appearance)
    figure, axes = plt.subplots(
        len(rows), len(datasets), figsize=(wide * len(datasets) + 2.2, high * len(rows) + 0.4), squeeze=False
    )
    handles: dict[str, Any] = {}
    drawn = []
    for line, row in enumerate(rows):
        below = rows[line + 1].over if line + 1 < len(rows) else ""
        for dataset, axis in zip(datasets, axes[line], strict=True):
            drawn.append((axis, draw_lines(axis, row, row.frame[row.frame["dataset"] == dataset], file)))
            handles |= drawn[-1][1]
            if line == 0:
                axis.set_title(wrapped(dataset_title(file, dataset), 30), loc="left")
            if dataset == datasets[0]:
                axis.set_ylabel(row.title)
            if row.over != below:
                axis.set_xlabel(row.over_title)
    legend(figure, handles, strategy_titles(file, handles), "outside right upper", appearance)
    note(figure, " ".join(remarks))
    number_ends(figure, drawn, appearance)
    return figure


def draw_lines(axis: Any, row: Lines, part: pd.DataFrame, file: StudyFile) -> dict[str, Any]:
    """Draw the curve of every strategy; return the lines by the names of the strategies."""
    lines: dict[str, Any] = {}
    if row.level is not None:
        axis.axhline(row.level, color=DARK, linewidth=0.8)
    for name, look in looks_of(file).items():
        mine = part[(part["strategy"] == name) & part[row.value].notna()]
        if mine.empty:
            continue
        by_labels = mine.groupby("labels")
        mean, std = by_labels[row.value].mean(), by_labels[row.value].std()
        place = by_labels[row.over].mean() if row.over != "labels" else mean.index
        lines[name] = draw_curve(axis, look, strategy_title(file, name), place, mean, std, row.bounds, linewidth=1.5)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1 if row.over == "labels" else 2))
    return lines


def of_budget(frame: pd.DataFrame, budget: str) -> pd.DataFrame:
    """Return the rows of a budget; UserError if there are none."""
    part = frame[frame["budget"] == budget]
    if part.empty:
        raise UserError(f"the measurements have no budget {budget!r} ({nearest(budget, set(frame['budget']))})")
    return part


def _present(names: list[str], column: pd.Series[Any]) -> list[str]:
    present = set(column)
    return [name for name in names if name in present]
