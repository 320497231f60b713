"""Judge the paper's claims by the numbers that the paper publishes."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from lplgrad.analysis.inference import ALPHA, Estimate, holm, welch
from lplgrad.paper import ROUNDING, TRIALS, published, spread
from lplgrad.paper.claimed import shown_fraction
from lplgrad.paper.judging import FAILS, HOLDS, Case, Claim, Finding, among, comparisons, judge, p_of_smallest


def found(claim: Claim, labels: dict[str, dict[str, int]]) -> Finding:
    """Judge a claim by the printed numbers, and find out whether more digits could change the verdict."""
    printed = judge(claim, "published", from_paper(claim, labels))
    if printed.verdict not in (HOLDS, FAILS):
        return printed
    verdicts = {judge(claim, "published", from_paper(claim, labels, shift)).verdict for shift in (-1, 1)}
    return replace(printed, rounding_decides=verdicts != {printed.verdict})


def from_paper(claim: Claim, labels: dict[str, dict[str, int]], shift: int = 0) -> list[Case]:
    """Return the cases of a claim for which the paper publishes numbers, by Welch's method (not paired).

    ± is read as a standard deviation over the 5 trials. Tables IV, V and VI have none, so their effects have no
    interval. "First" is the smallest number of labels in the table.

    Args:
        claim: of claims.yaml.
        labels: of claims.yaml.
        shift: 1 or -1 gives the highest or lowest effects that are rounded to the printed ones, with the largest
            deviations.
    """
    if claim.table == "none":
        return []
    frame = _paper_table(claim)
    cases = []
    for key, panel in frame.groupby(["budget", "dataset", "at"], sort=False):
        budget, dataset, at = map(str, key)
        fits = among(claim.budgets, budget) or not budget
        if not (fits and among(claim.datasets, dataset) and _is_at(claim, budget, dataset, at, labels)):
            continue
        rows = panel.set_index("strategy")[["mean", "std"]]
        known = {str(name): (float(row["mean"]), float(row["std"])) for name, row in rows.iterrows()}
        for strategy, baseline, rivals in comparisons(claim, {name: mean for name, (mean, _) in known.items()}):
            one = _rounded(known[strategy], shift)
            others = {name: _rounded(known[name], -shift) for name in (baseline, *rivals) if name}
            absolute, relative = _unpaired(one, others.get(baseline))
            case = Case(strategy, baseline, budget, dataset, _shown(at), absolute, relative, TRIALS)
            against = (_unpaired(one, others[rival])[claim.unit == "percent"] for rival in rivals)
            cases.append(replace(case, rivals=tuple(against)))
    return cases


def _rounded(cell: tuple[float, float], shift: int) -> tuple[float, float]:
    """Return mean and deviation at the edge of what is rounded to them."""
    return cell[0] + shift * ROUNDING, cell[1] + abs(shift) * ROUNDING


def _unpaired(one: tuple[float, float], other: tuple[float, float] | None) -> tuple[Estimate, Estimate]:
    """Return the effect in points and in percent."""
    if other is None:
        return Estimate(one[0], one[1] / math.sqrt(TRIALS), TRIALS - 1), Estimate(math.nan)
    difference = welch(one, other, (TRIALS, TRIALS))
    return difference, difference.scaled(100 / other[0])


def _shown(at: str) -> str:
    return f"{int(at):,} labels" if at.isdigit() else at


def _paper_table(claim: Claim) -> pd.DataFrame:
    """Return the claim's table: columns budget, dataset, at, strategy, mean, std."""
    if claim.table == "accuracy":
        if claim.measure != "accuracy":
            return pd.DataFrame(columns=["budget", "dataset", "at", "strategy", "mean", "std"])
        printed = published("accuracy")
        return printed.assign(at=printed["labels"].astype(str), std=printed["std"].map(spread))
    if claim.table == "ablation":
        wide = published("ablation").rename(columns={"with_auxiliary": "lplgrad", "without_auxiliary": "ent_gradnorm"})
        long = wide.melt(["budget", "dataset", "fraction"], var_name="strategy", value_name="mean")
        return long.assign(at=long["fraction"].map(shown_fraction), std=math.nan)
    frame = published("time").assign(budget="", at="", std=math.nan)
    return frame.assign(mean=frame["train" if claim.measure == "train_seconds" else "query"])


def _is_at(claim: Claim, budget: str, dataset: str, at: str, labels: dict[str, dict[str, int]]) -> bool:
    """Return whether the claim is about this number of labels of the paper."""
    if claim.table != "accuracy":
        return True
    number, end = int(at), labels[budget][dataset]
    first = min(published("accuracy").query("dataset == @dataset")["labels"])
    if not isinstance(claim.at, str):
        return number in (claim.at if isinstance(claim.at, list) else [claim.at])
    known: dict[str, bool] = {
        "queried": True, "last": number == end, "first": number == first, "fractions": False, "area": False,
        "first_half": 2 * number <= end, "second_half": 2 * number > end,
    }  # fmt: skip
    return known[claim.at]


def table_three() -> pd.DataFrame:
    """Compare LPLgrad with the best other strategy in every case of Table III, by Welch's test.

    Returns:
        Columns dataset, labels, baseline, difference, low, high, p, p_low and p_high (over all numbers that are rounded
        to these), p_chosen (allowing for the choice of the best), p_holm (over the cases), p_holm_low, p_holm_high, and
        significant (p < .05, uncorrected).
    """
    rows: list[dict[str, Any]] = []
    for (dataset, number), part in published("accuracy").groupby(["dataset", "labels"], sort=False):
        numbers = zip(part["mean"].tolist(), part["std"].map(spread).tolist(), strict=True)
        others = dict(zip(part["strategy"], numbers, strict=True))
        ours = others.pop("lplgrad")
        best = max(others, key=lambda name: others[name][0])
        differences = {name: welch(ours, other, (TRIALS, TRIALS)) for name, other in others.items()}
        low, high = differences[best].interval()
        p_low, p_high = rounded_p(ours, others[best])
        rows.append(
            {
                "dataset": dataset, "labels": number, "baseline": best, "difference": differences[best].value,
                "low": low, "high": high, "p": differences[best].p, "p_low": p_low, "p_high": p_high,
                "p_chosen": p_of_smallest(list(differences.values())),
            }
        )  # fmt: skip
    frame = pd.DataFrame(rows).assign(significant=lambda frame: frame["p"] < ALPHA)
    return frame.assign(**{f"p_holm{end}": holm(frame[f"p{end}"]) for end in ("", "_low", "_high")})


def rounded_p(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """Return the smallest and largest p of Welch's test over all means and deviations that are rounded to these.

    p falls with the distance of the means. A larger deviation does not always raise it, because the degrees of freedom
    change too; so deviations are tried on a grid.
    """
    distance = abs(one[0] - other[0])
    grids = [np.linspace(max(cell[1] - ROUNDING, 0), cell[1] + ROUNDING, 11) for cell in (one, other)]
    pairs = [pair for pair in product(*grids) if any(pair)]

    def values(apart: float) -> list[float]:
        return [welch((apart, mine), (0.0, theirs), (TRIALS, TRIALS)).p for mine, theirs in pairs]

    return min(values(distance + 2 * ROUNDING)), max(values(max(distance - 2 * ROUNDING, 0.0)))
