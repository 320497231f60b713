"""The paper's Tables V and VI: the effect of the auxiliary module, beside the paper's own numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lplgrad.analysis.curves import PANEL, panels
from lplgrad.analysis.inference import deviation, estimate
from lplgrad.paper import published
from lplgrad.report.document import Part, paragraphs, strong_if
from lplgrad.report.tables import Table
from lplgrad.report.wording import has_target, interval, number, panel_title, plus_minus, signed, strategy_title
from lplgrad.study.pairs import ablation_pairs
from lplgrad.study.settings import StudyFile

SUMMARY = ("mean", "std", "low", "high", "paper", "difference", "outside")
COLUMNS = [
    *PANEL, "fraction", "labels", "interpolated", "with_strategy", "without_strategy", "seeds", "stopped",
    *(f"{kind}_{what}" for kind in ("with", "without", "gain") for what in SUMMARY),
]  # fmt: skip


def ablation(file: StudyFile, measurements: pd.DataFrame) -> Table:
    """Make Tables V and VI."""
    table = ablation_table(measurements, file)
    beside = table["gain_paper"].notna().any()
    note = paragraphs(__file__, "ablation", empty=table.empty, published=beside, target=has_target(file.study))
    heading = "With and without the auxiliary module (the paper's Tables V and VI)"
    return Table(table, heading, ablation_parts(table, file), note)


def ablation_table(measurements: pd.DataFrame, file: StudyFile) -> pd.DataFrame:
    """Compare accuracy with and without the auxiliary module after a third, a half and all of the budget.

    If no round has that number of labels, each trial is interpolated linearly between the rounds around it.

    Returns:
        Columns budget, dataset, fraction, labels, interpolated, with_strategy, without_strategy, seeds (trials that
        both have), stopped (trials of which one had stopped before; if any had, there are no intervals), and for each
        of ``with``, ``without`` and ``gain`` (their difference, paired by seed): mean, std, low, high (95 % t
        interval), paper, difference (ours minus the paper's) and outside (whether the paper's number lies outside our
        interval; None without one). Accuracies in percent. The paper has numbers for lplgrad and ent_gradnorm.
    """
    printed = published("ablation").set_index([*PANEL, "fraction"]).T.to_dict("list")  # with the module, and without
    rows = []
    for panel, part in panels(measurements):
        budget, dataset = panel.values()
        spent = file.study.datasets[dataset].budgets[budget]
        for one, other in ablation_pairs(file.study):
            for fraction in ("1/3", "1/2", "1"):
                labels = Fraction(fraction) * spent.labels
                between = labels not in [spent.bought(number) for number in range(1, spent.rounds + 1)]
                found, stopped = _paired_at(part, one, other, float(labels))
                numbers = printed if (one, other) == ("lplgrad", "ent_gradnorm") else {}
                paper = numbers.get((budget, dataset, fraction), (math.nan, math.nan))
                row = [budget, dataset, fraction, round(float(labels), 1), between, one, other, found.shape[1], stopped]
                for ours, theirs in zip((*found, found[0] - found[1]), (*paper, paper[0] - paper[1]), strict=True):
                    row += _summary(ours, theirs, judged=not stopped)
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _paired_at(part: pd.DataFrame, one: str, other: str, labels: float) -> tuple[npt.NDArray[np.float64], int]:
    """Return the accuracy in percent of the trials that both strategies have at a number of labels, shape (2, trials);
    and the number of trials of which one had stopped before."""
    both = [part[part["strategy"] == name] for name in (one, other)]
    seeds = sorted(set(both[0]["seed"]) & set(both[1]["seed"]))
    trials = [[frame[frame["seed"] == seed].sort_values("round") for seed in seeds] for frame in both]
    found = np.array([[_at(trial, labels) for trial in of] for of in trials]).reshape(2, len(seeds)) * 100
    gone = np.isnan(found).any(axis=0)
    early = [any(trial["repeats"].any() for trial in pair) for pair in zip(*trials, strict=True)]
    return found[:, ~gone], int((gone & np.array(early, dtype=bool)).sum())


def _at(trial: pd.DataFrame, labels: float) -> float:
    return float(np.interp(labels, trial["labels"], trial["accuracy"], left=math.nan, right=math.nan))


def _summary(ours: npt.NDArray[np.float64], paper: float, judged: bool) -> list[Any]:
    found = estimate(ours)
    low, high = found.interval() if judged else (math.nan, math.nan)
    return [found.value, float(deviation(ours)), low, high, paper, found.value - paper, outside(paper, low, high)]


def outside(value: float, low: float, high: float) -> bool | None:
    """Return whether a value lies outside an interval; None if one of them is unknown."""
    return None if math.isnan(value) or math.isnan(low) else not low <= value <= high


def ablation_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out a section per budget, data set and pair of strategies."""
    parts = []
    for key, part in table.groupby([*PANEL, "with_strategy", "without_strategy"], sort=False):
        budget, dataset, one, other = map(str, key)
        beside = ["paper", "difference"] if part["gain_paper"].notna().any() else []
        head = ["labels", "", "trials", "with", *beside, "without", *beside, "gain", "95 % interval", *beside]
        rows = []
        for row in part.to_dict("records"):
            cells = [
                f"{row['labels']:,.0f}" + (" (interpolated)" if row["interpolated"] else ""),
                "all" if row["fraction"] == "1" else row["fraction"] + " of the budget",
                f"{row['seeds']}" + (f" ({row['stopped']} stopped before)" if row["stopped"] else ""),
            ]
            for kind in ("with", "without", "gain"):
                mean, std, low, high, paper, difference, far = (row[f"{kind}_{what}"] for what in SUMMARY)
                if kind == "gain":
                    cells += [strong_if(outside(0, low, high), signed(mean, 1)), interval(low, high, 1, signed)]
                else:
                    cells.append(plus_minus(mean, std, 1))
                if beside:
                    shown = signed(paper, 1) if kind == "gain" else number(paper, 1)
                    cells += [shown, strong_if(far, signed(difference, 1))]
            rows.append(cells)
        titles = f"{strategy_title(file, one)} against {strategy_title(file, other)}"
        heading = f"{panel_title(file, {'budget': budget, 'dataset': dataset})}: {titles}"
        parts.append(Part(heading, head=head, rows=rows, text_columns=2))
    return parts
