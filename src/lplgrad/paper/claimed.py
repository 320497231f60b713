"""The values that a claim is about, for every seed, from the measurements of a study."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lplgrad.analysis.curves import (
    CELL,
    areas,
    by_strategy,
    complete,
    heights,
    labels_needed,
    last_round,
    panels,
    trial_seconds,
)

FRACTIONS = {"1/3": 1 / 3, "1/2": 1 / 2, "1": 1.0}


def shown_fraction(name: str) -> str:
    """Name a fraction of the labels for people."""
    return "all labels" if name == "1" else f"{name} of the labels"


@dataclass(frozen=True)
class Measured:
    """The measurements of a study: of accuracy, and of time if there are any."""

    measurements: pd.DataFrame
    timings: pd.DataFrame | None = None

    @cached_property
    def panels(self) -> list[tuple[str, str]]:
        """Every budget and data set."""
        return [(key["budget"], key["dataset"]) for key, _ in panels(self.measurements)]

    @cached_property
    def names(self) -> list[str]:
        """The strategies."""
        return [str(name) for name in self.measurements["strategy"].unique()]

    @cached_property
    def curves(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """Accuracy in percent, as far as all trials of the panel go: labels down, seeds across."""
        return by_strategy(self.measurements)

    @cached_property
    def budgets(self) -> dict[tuple[str, str], list[int]]:
        """The labels of every round of a panel, measured or not: round r has r times those of round 1."""
        found = {}
        for key, panel in panels(complete(self.measurements)):
            first = int(panel.loc[panel["round"] == 1, "labels"].max())
            found[key["budget"], key["dataset"]] = [first * number for number in range(1, last_round(panel) + 1)]
        return found

    @cached_property
    def areas(self) -> pd.DataFrame:
        """Areas of whole trials."""
        return areas(self.measurements).set_index(CELL).sort_index()

    @cached_property
    def seconds(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """Seconds of every whole trial by seed, below each strategy of each panel."""
        if self.timings is None:
            return {}
        return {
            (str(budget), str(dataset), str(strategy)): part.set_index("seed")
            for (budget, dataset, strategy), part in trial_seconds(self.timings).groupby(CELL, sort=False)
        }


def values(
    measured: Measured, budget: str, dataset: str, strategy: str, measure: str, at: str | int
) -> dict[str, pd.Series[float]]:
    """Return the values of a strategy: for each point that ``at`` means, a value for every seed (the index).

    The points follow from the budget, so they are the same for all strategies. Points after a trial of the panel has
    stopped have no value, because only seeds that missed the target remain.

    Args:
        measured: the study.
        budget, dataset, strategy: where.
        measure: accuracy, train_seconds or query_seconds.
        at: as in claims.yaml; ignored for seconds, which are sums over a trial.
    """
    key = (budget, dataset, strategy)
    if measure != "accuracy":
        return {"": measured.seconds[key][measure]} if key in measured.seconds else {}
    if at == "area":
        there = key in measured.areas.index
        return {"area": measured.areas.loc[[key]].set_index("seed")["area"]} if there else {}
    if key not in measured.curves:
        return {}
    return _points(measured.curves[key], measured.budgets[budget, dataset], at)


def _points(curve: pd.DataFrame, budget: list[int], at: str | int) -> dict[str, pd.Series[float]]:
    if at == "fractions":
        found = {shown_fraction(name): heights(curve, share * budget[-1]) for name, share in FRACTIONS.items()}
        return {name: series for name, series in found.items() if len(series)}
    half, queried = max(len(budget) // 2, 1), budget[1:]
    if at in ("first_half", "second_half"):
        rounds = budget[1:half] if at == "first_half" else budget[half:]
        whole = bool(rounds) and set(rounds) <= set(curve.index)
        return {at.replace("_", " "): curve.loc[rounds].mean(skipna=False).dropna()} if whole else {}
    chosen = {"queried": queried, "first": queried[:1], "last": queried[-1:]}.get(str(at))
    wanted = [labels for labels in queried if labels == at] if chosen is None else chosen
    return {f"{labels:,} labels": heights(curve, labels) for labels in wanted if labels in curve.index}


def labels_taken(measured: Measured, budget: str, dataset: str) -> dict[str, dict[str, pd.Series[float]]]:
    """Return the labels with which every seed first reaches the accuracies of ``curves.targets``, by strategy.

    NaN for a seed that never reaches the accuracy, or already has it in round 1.
    """
    rows = measured.measurements.query("budget == @budget and dataset == @dataset")
    needed = labels_needed(rows)
    seen = needed.assign(labels=needed["labels"].where(needed["censored"] == ""))
    found: dict[str, dict[str, pd.Series[float]]] = {}
    for (strategy, accuracy), part in seen.groupby(["strategy", "accuracy"], sort=False):
        found.setdefault(str(strategy), {})[f"{accuracy:g} % right"] = part.set_index("seed")["labels"]
    return found
