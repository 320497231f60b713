"""Intervals for the accuracy on a small test set."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, norm

FEWEST = 30  # test examples below which no accuracy is claimed
LEVEL = 0.95


class Proportion(NamedTuple):
    """An estimate with its interval."""

    value: float
    low: float
    high: float


def accuracy(right: npt.NDArray[np.bool_]) -> Proportion:
    """Return a model's accuracy with Wilson's interval (1927), which is sound for few examples and near 0 and 1.

    Args:
        right: whether the prediction is right, for each test example, shape (N,).
    """
    found = binomtest(int(right.sum()), len(right)).proportion_ci(LEVEL, "wilson")
    return Proportion(float(right.mean()), float(found.low), float(found.high))


def difference(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> Proportion:
    """Return how much more accurate a model is than another on the same test examples.

    The interval is Wald's for paired proportions with half an example added to each cell of the 2 x 2 table (Agresti
    and Min, Statistics in Medicine 2005).

    Args:
        before, after: whether each model is right, for each test example, shape (N,).
    """
    count = len(before)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    middle = (gained - lost) / (count + 2)
    spread = math.sqrt(max(gained + lost + 1 - (gained - lost) ** 2 / (count + 2), 0)) / (count + 2)
    reach = float(norm.ppf((1 + LEVEL) / 2)) * spread
    return Proportion((gained - lost) / count, max(middle - reach, -1.0), min(middle + reach, 1.0))
