"""Average ranks over data sets: Friedman's test, exact where that can be counted, and Nemenyi's critical difference.

The blocks are the budgets and data sets of a study, never its seeds: seeds repeat a data set, they do not add one
(Demšar 2006, section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from lplgrad.analysis.inference import ALPHA, Array

# Above this many sums of ranks the exact distribution is left to Iman and Davenport's approximation.
MOST_SUMS = 2_000_000


@dataclass(frozen=True)
class Ranking:
    """Strategies ranked over blocks."""

    ranks: pd.Series[float]  # average rank of each strategy, 1 for the best in every block; ascending
    blocks: int
    dropped: list[str] = field(default_factory=list)  # strategies without a rank, since some block lacks them
    statistic: float = math.nan  # Friedman's chi-squared, corrected for ties
    p: float = math.nan  # of Friedman's test
    method: str = ""  # "exact" or "Iman-Davenport"
    critical: float = math.nan  # Nemenyi's critical difference at 5 %; NaN if refused
    groups: list[tuple[int, int]] = field(default_factory=list)  # of the function of that name
    refused: str = ""  # why there is no test or no critical difference; else empty


def rank(values: pd.DataFrame) -> Ranking:
    """Rank strategies (columns) in blocks (rows); higher values are better, ties share their mean rank."""
    kept = values.dropna(axis="columns")
    dropped = [str(name) for name in values.columns if name not in kept]
    blocks, size = kept.shape
    if kept.empty:
        return Ranking(pd.Series(dtype=float), blocks, dropped, refused="there is nothing to rank")
    # What differs by rounding alone is a tie.
    in_blocks = stats.rankdata(-kept.round(9), axis=1)
    about = Ranking(pd.Series(in_blocks.mean(axis=0), kept.columns).sort_values(kind="stable"), blocks, dropped)
    if size < 3:
        return replace(about, refused="a test needs three strategies or more")
    if blocks < 2:
        return replace(about, refused="a test needs two blocks or more")
    statistic, p, method = friedman(in_blocks)
    about = replace(about, statistic=statistic, p=p, method=method)
    critical, in_order = nemenyi(size, blocks), np.sort(in_blocks.mean(axis=0))
    if critical >= size - 1:
        reason = f"with {blocks} blocks the critical difference, {critical:.2f}, is more than ranks can differ by"
        return replace(about, refused=reason)
    if not p < ALPHA:
        whole = [(0, size - 1)]
        reason = f"Friedman's test finds no difference between the strategies (p = {p:.3f}), so none is looked for"
        return replace(about, critical=critical, groups=whole, refused=reason)
    return replace(about, critical=critical, groups=groups(in_order, critical))


def friedman(in_blocks: Array) -> tuple[float, float, str]:
    """Test ranks of shape (blocks N, strategies k) by Friedman's test.

    Returns:
        Chi-squared (corrected for ties), p, and the method: the exact distribution over all permutations within blocks,
        or, if there are too many, the F distribution of Iman and Davenport (1980), as Demšar (2006) recommends.
    """
    blocks, size = in_blocks.shape
    sums = in_blocks.sum(axis=0)
    spread = (in_blocks**2).sum() - blocks * size * (size + 1) ** 2 / 4
    if spread <= 0:
        return 0.0, 1.0, "exact"
    between = float(((sums - blocks * (size + 1) / 2) ** 2).sum())
    chi_squared = (size - 1) * between / float(spread)
    p = _exact(in_blocks, between)
    if p is not None:
        return chi_squared, p, "exact"
    rest = blocks * (size - 1) - chi_squared
    f = math.inf if rest <= 1e-9 else (blocks - 1) * chi_squared / rest
    return chi_squared, float(stats.f.sf(f, size - 1, (size - 1) * (blocks - 1))), "Iman-Davenport"


def _exact(in_blocks: Array, between: float) -> float | None:
    """Probability that permuting ranks within blocks gives sums at least as far apart; None if there are too many.
    Only the multiset of the sums matters, so sums are sorted and counted; the first block need not be permuted."""
    doubled = np.rint(2 * in_blocks).astype(np.int64)  # mean ranks of ties are halves
    size = doubled.shape[1]
    if math.factorial(size) > 5040:
        return None
    sums: npt.NDArray[np.int64] = np.sort(doubled[:1], axis=1)
    counts: Array = np.ones(1)
    for block in doubled[1:]:
        orders, repeats = np.unique(list(permutations(block)), axis=0, return_counts=True)
        if len(sums) * len(orders) > MOST_SUMS:
            return None
        reached = np.sort((sums[:, None, :] + orders[None, :, :]).reshape(-1, size), axis=1)
        weights = (counts[:, None] * repeats[None, :]).ravel()
        base = int(reached.max()) + 1
        keys = reached @ base ** np.arange(size, dtype=np.int64)
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        sums = reached[first]
        counts = np.asarray(np.bincount(inverse, weights), dtype=np.float64)
    distances = ((sums - sums.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    return float(counts[distances >= 4 * between - 1e-6].sum() / counts.sum())


def nemenyi(size: int, blocks: int) -> float:
    """Nemenyi's critical difference of average ranks of k strategies (``size``) over N blocks:
    q sqrt(k (k + 1) / (6 N)) (Demšar 2006, section 3.2.2)."""
    quantile = stats.studentized_range.ppf(1 - ALPHA, size, math.inf) / math.sqrt(2)
    return float(quantile) * math.sqrt(size * (size + 1) / (6 * blocks))


def groups(ranks: Array, critical: float) -> list[tuple[int, int]]:
    """The longest runs of ascending ranks whose ends differ by less than the critical difference, as positions."""
    found: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = int(np.searchsorted(ranks, ranks[start] + critical)) - 1
        if end > start and (not found or end > found[-1][1]):
            found.append((start, end))
    return found
