"""The values that a claim is about, for every seed, from the measurements of a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lplgrad.analysis import curves
from lplgrad.analysis.curves import CELL, heights, panels

FRACTIONS = {"1/3": 1 / 3, "1/2": 1 / 2, "1": 1.0}


def shown_fraction(name: str) -> str:
    """Name a fraction of the labels for people."""
    return "all labels" if name == "1" else f"{name} of the labels"


@dataclass(frozen=True)
class Measured:
    """The measurements of a study: of accuracy, and of time if there are any."""

    measurements: pd.DataFrame
    bought: Callable[[str, str, int], int]  # the labels of a budget, a data set and a round; see ``Layout.bought``
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
        return curves.by_strategy(self.measurements)

    @cached_property
    def budgets(self) -> dict[tuple[str, str], list[int]]:
        """The labels of every round of a panel, measured or not."""
        found = {}
        for key, panel in panels(curves.complete(self.measurements)):
            where = key["budget"], key["dataset"]
            found[where] = [self.bought(*where, 1 + done) for done in range(curves.last_round(panel))]
        return found

    @cached_property
    def areas(self) -> pd.DataFrame:
        """Areas of whole trials."""
        return curves.areas(self.measurements).set_index(CELL).sort_index()

    @cached_property
    def seconds(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """Seconds of every whole trial by seed, below each strategy of each panel."""
        if self.timings is None:
            return {}
        return {
            (str(budget), str(dataset), str(strategy)): part.set_index("seed")
            for (budget, dataset, strategy), part in curves.trial_seconds(self.timings).groupby(CELL, sort=False)
        }


def values(
    measured: Measured, budget: str, dataset: str, strategy: str, measure: str, at: str | int
) -> dict[str, pd.Series[float]]:
    """Return the values of a strategy: for each point that ``at`` means, a value for every seed (the index).

    The points follow from the budget, so they are the same for all strategies. Points after a trial of the panel has
    stopped have no value, because only seeds that missed the target remain. ``measure`` and ``at`` are those of
    claims.yaml, except labels_needed; for seconds, which are sums over a trial, ``at`` is ignored.
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
    named = {"queried": queried, "first": queried[:1], "last": queried[-1:]}
    wanted = named[at] if isinstance(at, str) else {at}.intersection(queried)
    return {f"{labels:,} labels": heights(curve, labels) for labels in wanted if labels in curve.index}


def labels_taken(measured: Measured, budget: str, dataset: str) -> dict[str, dict[str, pd.Series[float]]]:
    """Return the labels with which every seed first reaches the accuracies of ``curves.targets``, by strategy.

    NaN for a seed that never reaches the accuracy, or already has it in round 1.
    """
    rows = measured.measurements.query("budget == @budget and dataset == @dataset")
    needed = curves.labels_needed(rows)
    seen = needed.assign(labels=needed["labels"].where(needed["censored"] == ""))
    found: dict[str, dict[str, pd.Series[float]]] = {}
    for (strategy, accuracy), part in seen.groupby(["strategy", "accuracy"], sort=False):
        found.setdefault(str(strategy), {})[f"{accuracy:g} % right"] = part.set_index("seed")["labels"]
    return found
