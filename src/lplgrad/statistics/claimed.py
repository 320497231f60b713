"""The values that a claim is about, seed by seed, from the measurements of a study."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from lplgrad.statistics.curves import CHAIN, FIRST_QUERIED, areas, complete, curves, labels_needed, panels

FRACTIONS = {"1/3": 1 / 3, "1/2": 1 / 2, "1": 1.0}


def shown_fraction(name: str) -> str:
    """A fraction of the labels for people."""
    return "all labels" if name == "1" else f"{name} of the labels"


@dataclass(frozen=True)
class Measured:
    """The measurements of a study, as claims ask for them.

    Attributes:
        measurements: of accuracy.
        timings: of time; None where there are none.
    """

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
        """Accuracy in percent of whole chains: rounds down, seeds across; below each strategy of each panel."""
        frame = curves(complete(self.measurements))
        return {
            (str(budget), str(dataset), str(strategy)): part.pivot(index="labels", columns="seed", values="accuracy")
            for (budget, dataset, strategy), part in frame.groupby(CHAIN[:3], sort=False)
        }

    @cached_property
    def areas(self) -> pd.DataFrame:
        """Areas of whole chains."""
        return areas(self.measurements).set_index(CHAIN[:3]).sort_index()

    @cached_property
    def seconds(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """Seconds of a trial, summed over its rounds, by seed; below each strategy of each panel."""
        if self.timings is None:
            return {}
        return {
            (str(budget), str(dataset), str(strategy)): part.groupby("seed")[["train_seconds", "query_seconds"]].sum()
            for (budget, dataset, strategy), part in self.timings.groupby(CHAIN[:3], sort=False)
        }


def values(
    measured: Measured, budget: str, dataset: str, strategy: str, measure: str, at: str | int
) -> dict[str, pd.Series[float]]:
    """What a strategy has in a panel: for each point that ``at`` stands for, a value for every seed (the index).

    Args:
        measured: the study.
        budget, dataset, strategy: where.
        measure: accuracy, train_seconds or query_seconds.
        at: as in claims.yaml; of no meaning for seconds, which are sums over a trial.
    """
    key = (budget, dataset, strategy)
    if measure != "accuracy":
        return {"": measured.seconds[key][measure]} if key in measured.seconds else {}
    if at == "area":
        there = key in measured.areas.index
        return {"area": measured.areas.loc[[key]].set_index("seed")["area"]} if there else {}
    if key not in measured.curves:
        return {}
    curve = measured.curves[key]
    return _points(curve.iloc[FIRST_QUERIED - 1 :], curve, at)


def _points(queried: pd.DataFrame, curve: pd.DataFrame, at: str | int) -> dict[str, pd.Series[float]]:
    if queried.empty:
        return {}
    half = len(curve) // 2 - (len(curve) - len(queried))  # rounds of the first half that a query had a part in
    if at == "fractions":
        end = float(curve.index[-1])
        return {shown_fraction(name): _at(curve, share * end) for name, share in FRACTIONS.items()}
    if at in ("first_half", "second_half"):
        part = queried.iloc[:half] if at == "first_half" else queried.iloc[half:]
        return {at.replace("_", " "): part.mean(skipna=False)} if len(part) else {}
    if at == "queried":
        chosen = queried
    elif at in ("first", "last"):
        chosen = queried.iloc[:1] if at == "first" else queried.iloc[-1:]
    else:
        chosen = queried[queried.index == at]
    return {f"{labels:,} labels": row.dropna() for labels, row in chosen.iterrows()}


def _at(curve: pd.DataFrame, labels: float) -> pd.Series[float]:
    """Accuracy at a number of labels, by linear interpolation; no value before the first round."""
    if labels < curve.index[0]:
        return pd.Series(dtype=float)
    place = curve.index.to_numpy(dtype=float)
    whole = curve.dropna(axis="columns")  # a stopped chain has no value beyond its end
    return pd.Series({seed: float(np.interp(labels, place, whole[seed])) for seed in whole.columns}, dtype=float)


def labels_taken(measured: Measured, budget: str, dataset: str) -> dict[str, dict[str, pd.Series[float]]]:
    """The labels with which every seed first reaches the accuracies of ``curves.targets``, below each strategy.

    NaN where that was not seen: a seed that did not get there, or was there with its first labels.
    """
    rows = measured.measurements.query("budget == @budget and dataset == @dataset")
    needed = labels_needed(rows)
    seen = needed.assign(labels=needed["labels"].where(needed["censored"] == ""))
    found: dict[str, dict[str, pd.Series[float]]] = {}
    for (strategy, accuracy), part in seen.groupby(["strategy", "accuracy"], sort=False):
        found.setdefault(str(strategy), {})[f"{accuracy:g} % right"] = part.set_index("seed")["labels"]
    return found
