"""The paper's claims held against the numbers that the paper itself publishes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd

from lplgrad.paper import TRIALS, published
from lplgrad.report.claims import Case, Claim, among, comparisons
from lplgrad.statistics.claimed import shown_fraction
from lplgrad.statistics.inference import ALPHA, Estimate, holm, welch


def from_paper(claim: Claim, labels: dict[str, dict[str, int]]) -> list[Case]:
    """The cases of a claim that the paper publishes numbers for, by Welch's method (its strategies were not paired).

    ± is read as a standard deviation over the 5 trials. Tables IV, V and VI have none: effects without an interval.
    "First" is the smallest number of labels that the table has.
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
            case = _unpaired(strategy, baseline, budget, dataset, at, known)
            against = (_unpaired(strategy, rival, budget, dataset, at, known).effect(claim) for rival in rivals)
            cases.append(replace(case, rivals=tuple(against)))
    return cases


def _unpaired(
    strategy: str, baseline: str, budget: str, dataset: str, at: str, known: dict[str, tuple[float, float]]
) -> Case:
    mean, spread = known[strategy]
    if not baseline:
        value = Estimate(mean, spread / math.sqrt(TRIALS), TRIALS - 1)
        return Case(strategy, "", budget, dataset, _shown(at), value, Estimate(math.nan), TRIALS)
    difference = welch(known[strategy], known[baseline], (TRIALS, TRIALS))
    relative = difference.scaled(100 / known[baseline][0])
    return Case(strategy, baseline, budget, dataset, _shown(at), difference, relative, TRIALS)


def _shown(at: str) -> str:
    return f"{int(at):,} labels" if at.isdigit() else at


def _paper_table(claim: Claim) -> pd.DataFrame:
    """Columns budget, dataset, at, strategy, mean, std of the claim's table."""
    if claim.table == "accuracy":
        if claim.measure != "accuracy":
            return pd.DataFrame(columns=["budget", "dataset", "at", "strategy", "mean", "std"])
        return published("accuracy").assign(at=lambda frame: frame["labels"].astype(str))
    if claim.table == "ablation":
        wide = published("ablation").rename(columns={"with_auxiliary": "lplgrad", "without_auxiliary": "ent_gradnorm"})
        long = wide.melt(["budget", "dataset", "fraction"], var_name="strategy", value_name="mean")
        return long.assign(at=long["fraction"].map(shown_fraction), std=math.nan)
    frame = published("time").assign(budget="", at="", std=math.nan)
    return frame.assign(mean=frame["train" if claim.measure == "train_seconds" else "query"])


def _is_at(claim: Claim, budget: str, dataset: str, at: str, labels: dict[str, dict[str, int]]) -> bool:
    """Whether the claim is about this number of labels of the paper's."""
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
    """LPLgrad against the best other strategy in every case of Table III: columns dataset, labels, baseline,
    difference, low, high, p (Welch's), p_holm (over the twelve), significant (without Holm's correction)."""
    rows: list[dict[str, Any]] = []
    for (dataset, number), part in published("accuracy").groupby(["dataset", "labels"], sort=False):
        means = part.set_index("strategy")["mean"]
        spreads = part.set_index("strategy")["std"]
        best = str(means.drop("lplgrad").idxmax())
        known = {name: (float(means[name]), float(spreads[name])) for name in ("lplgrad", best)}
        found = welch(known["lplgrad"], known[best], (TRIALS, TRIALS))
        low, high = found.interval()
        row = {"dataset": dataset, "labels": number, "baseline": best, "difference": found.value, "low": low}
        rows.append({**row, "high": high, "p": found.p})
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"]), significant=frame["p"] < ALPHA)
