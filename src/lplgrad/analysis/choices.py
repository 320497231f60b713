"""What accuracy does not say, from arrays: the balance, redundancy and agreement of what queries chose, how scores rank
errors and losses, and whether a model's confidence is calibrated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special, stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from lplgrad.analysis.inference import Array

Indices = npt.NDArray[np.int64]
BINS = 15  # of the calibration error
SCORES = ("gradient_norm", "predicted_loss", "entropy")


def class_balance(labels: Indices, classes: int) -> float:
    """Entropy of the class frequencies over that of equal ones (Pielou's evenness): 1 where all ``classes`` are as
    frequent, 0 where there is one class alone. NaN without labels or with a single class in all."""
    if not len(labels) or classes < 2:
        return math.nan
    shares = np.bincount(labels, minlength=classes) / len(labels)
    return float(special.entr(shares).sum() / math.log(classes))


def jaccard(one: Indices, other: Indices) -> float:
    """Size of the intersection of two sets over that of their union; NaN if both are empty. Members are distinct."""
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else math.nan


def nearest_distance(pixels: Array) -> float:
    """Mean over examples (rows) of the Euclidean distance to the nearest other one: small where a batch repeats itself.
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
    """How well each of ``SCORES`` ranks examples (rows) by their loss; NaN if the model has no such score."""
    loss = asked["loss"].to_numpy(float)
    return {name: rank_correlation(asked[name].to_numpy(float), loss) for name in SCORES}


def error_ranking(scores: Array, wrong: npt.NDArray[np.bool_]) -> float:
    """The probability that a misclassified candidate scores higher than a correctly classified one, ties counting half
    (area under the ROC curve; Hanley & McNeil 1982): 0.5 for scores that know nothing. NaN unless there are both."""
    return float(roc_auc_score(wrong, scores)) if 0 < wrong.sum() < len(wrong) else math.nan


def losses(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> Array:
    """Cross-entropy of each example in nats, shape (N,), from logits of shape (N, C), in float64."""
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    found: Array = -log_probabilities[np.arange(len(labels)), labels]
    return found


def entropies(logits: npt.NDArray[np.floating[Any]]) -> Array:
    """Entropy of each prediction in nats, shape (N,)."""
    found: Array = special.entr(special.softmax(logits.astype(np.float64), axis=1)).sum(axis=1)
    return found


def calibration_error(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> float:
    """Expected calibration error, 0 to 1 (Naeini et al. 2015; Guo et al. 2017, eq. 3): the mean over examples of
    |accuracy - mean confidence| of their bin, by the highest probability, in ``BINS`` equal bins that are closed above.
    """
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    confidence, right = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(place, right, BINS) - np.bincount(place, confidence, BINS)
    return float(np.abs(gaps).sum() / len(labels))
