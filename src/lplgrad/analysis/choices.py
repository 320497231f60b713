"""What a query chose: balance of its classes, redundancy, agreement with other strategies, and whether the scores
ranked the errors first."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from lplgrad.analysis.inference import Array

Indices = npt.NDArray[np.int64]
SIDE = 32
SCORES = ("gradient_norm", "predicted_loss", "entropy")


def class_balance(labels: Indices, classes: int) -> float:
    """Entropy of the class frequencies over that of equal ones (Pielou's evenness): 1 where all ``classes`` are as
    frequent, 0 where there is one class alone. NaN without labels or with a single class in all."""
    if not len(labels) or classes < 2:
        return math.nan
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return float(special.entr(shares).sum() / math.log(classes))


def jaccard(one: Indices, other: Indices) -> float:
    """Size of the intersection of two sets over that of their union: 1 for the same, 0 for none in common.

    Args:
        one, other: the members, each once. NaN where both are empty.
    """
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else math.nan


def shrunk(images: npt.NDArray[np.uint8], side: int = SIDE) -> Array:
    """Images as rows of pixels for distances: averaged over blocks until no side is longer than ``side``.

    Args:
        images: uint8, shape (N, H, W, C).

    Returns:
        Shape (N, D), in [0, 1].
    """
    count, height, width, channels = images.shape
    block = max(1, math.ceil(max(height, width) / side))
    rows, columns = height // block, width // block
    cut = images[:, : rows * block, : columns * block].astype(np.float32) / 255
    means = cut.reshape(count, rows, block, columns, block, channels).mean(axis=(2, 4))
    return cast(Array, means.reshape(count, -1).astype(np.float64))


def nearest_distance(pixels: Array) -> float:
    """Mean over images (rows) of the Euclidean distance to the nearest other one: small where a batch repeats itself.
    NaN for fewer than two."""
    if len(pixels) < 2:
        return math.nan
    distances, _ = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(pixels).kneighbors()
    return float(distances.mean())


def rank_correlation(one: Array, other: Array) -> float:
    """Spearman's; NaN where either does not vary, where a value is not finite, or for fewer than three."""
    if len(one) < 3 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return math.nan
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(stats.spearmanr(one, other).statistic)


def loss_correlations(asked: pd.DataFrame) -> dict[str, float]:
    """How well each of ``SCORES`` ranks images by their loss.

    Args:
        asked: a row an image: loss, and a column for each score, empty where the model has none.
    """
    loss = asked["loss"].to_numpy(float)
    return {name: rank_correlation(asked[name].to_numpy(float), loss) for name in SCORES}


def error_ranking(scores: Array, wrong: npt.NDArray[np.bool_]) -> float:
    """The probability that a misclassified candidate scores higher than a correctly classified one, ties counting half
    (area under the ROC curve; Hanley & McNeil 1982): 0.5 for scores that know nothing. NaN unless there are both."""
    return float(roc_auc_score(wrong, scores)) if 0 < wrong.sum() < len(wrong) else math.nan
