"""Strategies compared: means with intervals, paired differences and their tests, the pairwise penalty matrix.

Accuracies and areas are in percent, differences in points of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from lplgrad.analysis.curves import CELL, PANEL, compared, panels
from lplgrad.analysis.inference import ALPHA, detectable, deviation, estimate, hedges_g, holm, seeds_needed, wilcoxon


def summary(frame: pd.DataFrame, by: list[str], value: str) -> pd.DataFrame:
    """Mean, sample standard deviation and 95 % t interval over seeds: columns ``by``, seeds, mean, std, low, high."""
    rows = []
    for key, part in frame.groupby(by, sort=False):
        mean = estimate(part[value])
        spread = float(deviation(part[value]))
        rows.append([*key, len(part), mean.value, spread, *mean.interval()])
    return pd.DataFrame(rows, columns=[*by, "seeds", "mean", "std", "low", "high"])


def rounds(measurements: pd.DataFrame) -> pd.DataFrame:
    """Accuracy after every round that all trials have: columns ``CELL``, labels and those of ``summary``."""
    return summary(compared(measurements), [*CELL, "labels"], "accuracy")


def area_summary(of_trials: pd.DataFrame) -> pd.DataFrame:
    """Areas by strategy: columns ``CELL``, labels_from, labels_to and those of ``summary``."""
    return summary(of_trials, [*CELL, "labels_from", "labels_to"], "area")


def compare(one: pd.Series[float], other: pd.Series[float], power: bool) -> dict[str, Any] | None:
    """One strategy minus another, over the seeds (the index) that both have; None without a common seed.

    Returns:
        seeds, difference, std (of the differences), low, high, t, p, p_wilcoxon, p_wilcoxon_floor, g, and with
        ``power`` detectable and seeds_needed.
    """
    seeds = [seed for seed in one.index if seed in other.index]
    if not seeds:
        return None
    first, second = one.loc[seeds].to_numpy(), other.loc[seeds].to_numpy()
    differences = first - second
    mean, spread = estimate(differences), float(deviation(differences))
    p_wilcoxon, floor = wilcoxon(differences)
    low, high = mean.interval()
    row = {
        "seeds": len(seeds), "difference": mean.value, "std": spread, "low": low, "high": high,
        "t": mean.value / mean.error if mean.error > 0 else math.nan, "p": mean.p, "p_wilcoxon": p_wilcoxon,
        "p_wilcoxon_floor": floor, "g": hedges_g(first, second),
    }  # fmt: skip
    if power:
        row["detectable"] = detectable(spread, len(seeds))
        row["seeds_needed"] = seeds_needed(mean.value / spread) if spread > 0 else math.nan
    return row


def _compare_pairs(frame: pd.DataFrame, order: Sequence[str], value: str, power: bool) -> Iterator[dict[str, Any]]:
    """Compare each strategy with those after it, by a column that has one row for each strategy and seed."""
    values = {str(name): part.set_index("seed")[value] for name, part in frame.groupby("strategy")}
    for one, other in combinations([name for name in order if name in values], 2):
        if row := compare(values[one], values[other], power):
            yield {"strategy": one, "baseline": other, **row}


def area_differences(of_trials: pd.DataFrame, strategies: Sequence[str], reference: str) -> pd.DataFrame:
    """Compare every strategy with every other, by the areas of trials.

    Returns:
        Columns ``CELL`` (never with the reference as a baseline), baseline, those of ``compare``, family (whether it is
        a comparison with the reference; these are the family of Holm's correction), p_holm (NaN outside the family).
    """
    order = [reference, *(name for name in strategies if name != reference)]
    rows = []
    for key, panel in panels(of_trials):
        pairs = _compare_pairs(panel, order, "area", power=True)
        rows += [{**key, **pair, "family": pair["strategy"] == reference} for pair in pairs]
    if not rows:
        return pd.DataFrame(columns=[*CELL, "baseline", "seeds", "difference", "p", "family", "p_holm"])
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(frame["p"].where(frame["family"])))


def gains(of_trials: pd.DataFrame, measurements: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """Compare every strategy with random labelling, and tell apart what its queries and its training bring.

    Random labelling with the same recipe differs from a strategy by its queries alone. It differs from the study's
    random labelling by its training alone. On common seeds, ``query`` and ``training`` add up to ``total``.

    Args:
        of_trials: the areas of trials.
        measurements: the measurements, which know the recipe and the acquisition function of every strategy.
        strategies: the strategies, in the order of the rows.

    Returns:
        Columns ``CELL``, gain, baseline and those of ``compare``. ``total`` compares with ``random_of`` the study,
        ``query`` with random labelling by the same recipe, and ``training`` compares these two. A row is missing if
        both are the same strategy, or if there is no such random labelling.
    """
    baseline = random_of(measurements)
    recipes = measurements.groupby("strategy")["recipe"].first()
    own = {name: random_of(measurements[measurements["recipe"] == recipes[name]]) for name in strategies}
    # Random labelling is its own baseline, also beside another with the same recipe.
    own |= {name: name for name in measurements.loc[measurements["acquisition"] == "random", "strategy"]}
    rows = []
    for key, panel in panels(of_trials):
        values = {str(name): part.set_index("seed")["area"] for name, part in panel.groupby("strategy")}
        for name in [name for name in strategies if name in values]:
            pairs = {"total": (name, baseline), "training": (own[name], baseline), "query": (name, own[name])}
            for gain, (one, other) in pairs.items():
                if one == other or one not in values or other not in values:
                    continue
                if row := compare(values[one], values[other], power=False):
                    rows.append({**key, "strategy": name, "gain": gain, "baseline": other, **row})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*CELL, "gain", "baseline", "seeds", "difference"])


def round_differences(measurements: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """Compare every strategy with every other, after every round that all trials have: columns ``PANEL``, labels,
    strategy, baseline and those of ``compare``. In round 1 strategies of one recipe share a model and are left out."""
    rows = []
    for key, panel in panels(compared(measurements)):
        recipes = panel.groupby("strategy")["recipe"].first()
        for (number, labels), part in panel.groupby(["round", "labels"]):
            rows += [
                {**key, "labels": labels, **pair}
                for pair in _compare_pairs(part, strategies, "accuracy", power=False)
                if number != 1 or recipes[pair["strategy"]] != recipes[pair["baseline"]]
            ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=[*PANEL, "labels", "strategy", "baseline", "seeds"])


def penalties(of_rounds: pd.DataFrame, first_labels: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """The pairwise penalty matrix of Ash et al. (2020, section 4).

    A strategy beats another at a number of labels if a two-sided paired t test at 5 % says so. Each win adds 1 / (label
    counts of the panel), so a panel weighs the same however many rounds it has. Round 1 is left out.

    Returns:
        Columns strategy, baseline (all ordered pairs), wins (the sum above; NaN if the pair could be compared nowhere),
        panels (in which it could, by 2 seeds or more), share (wins over panels), chance (wins expected without any
        difference).
    """
    first = of_rounds.merge(first_labels.assign(first=True), how="left", on=[*PANEL, "labels"])["first"].notna()
    tested = of_rounds[~first.to_numpy() & (of_rounds["seeds"] >= 2).to_numpy()]
    rows = []
    for one in strategies:
        for other in strategies:
            if one == other:
                continue
            wins, count = 0.0, 0
            for strategy, baseline, sign in ((one, other, 1), (other, one, -1)):
                chosen = tested[(tested["strategy"] == strategy) & (tested["baseline"] == baseline)]
                for _, panel in panels(chosen):
                    won = (panel["p"] < ALPHA) & (sign * panel["difference"] > 0)
                    wins, count = wins + float(won.mean()), count + 1
            share = wins / count if count else math.nan
            rows.append([one, other, wins if count else math.nan, count, share, count * ALPHA / 2])
    return pd.DataFrame(rows, columns=["strategy", "baseline", "wins", "panels", "share", "chance"])


def first_labels(measurements: pd.DataFrame) -> pd.DataFrame:
    """The labels of round 1 of every panel: columns budget, dataset, labels."""
    return measurements.loc[measurements["round"] == 1, [*PANEL, "labels"]].drop_duplicates()


def reference_of(strategies: Sequence[str]) -> str:
    """The strategy that the others are compared with: lplgrad where it runs, else the first."""
    return "lplgrad" if "lplgrad" in strategies else strategies[0]


def random_of(measurements: pd.DataFrame) -> str | None:
    """The strategy that labels at random, if there is one; of several the one called random, else the first."""
    names = list(measurements.loc[measurements["acquisition"] == "random", "strategy"].unique())
    return "random" if "random" in names else str(names[0]) if names else None


def block_means(of_trials: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series[int]]:
    """Average areas to rank strategies by, over the seeds of a panel that all ranked strategies have.

    Returns:
        Means of every strategy (columns) in every panel (rows) with a common seed, NaN for a strategy that has no area
        in some panel and so is not ranked; and the number of common seeds of every panel.
    """
    wide = of_trials.pivot(index=[*PANEL, "seed"], columns="strategy", values="area")
    there = wide.notna().groupby(PANEL).any()
    common = wide[there.columns[there.all()]].dropna().groupby(PANEL)
    return common.mean().reindex(columns=there.columns), common.size().reindex(there.index, fill_value=0)
