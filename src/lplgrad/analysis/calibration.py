"""Whether a model knows how sure it may be: calibration, from logits and true classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from lplgrad.analysis.inference import Array

BINS = 15


def losses(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64]) -> Array:
    """Cross-entropy of each image in nats, shape (N,), from logits of shape (N, C), in float64."""
    log_probabilities = special.log_softmax(logits.astype(np.float64), axis=1)
    found: Array = -log_probabilities[np.arange(len(labels)), labels]
    return found


def entropies(logits: npt.NDArray[np.floating[Any]]) -> Array:
    """Entropy of each prediction in nats, shape (N,)."""
    found: Array = special.entr(special.softmax(logits.astype(np.float64), axis=1)).sum(axis=1)
    return found


def calibration_error(logits: npt.NDArray[np.floating[Any]], labels: npt.NDArray[np.int64], bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, eq. 3).

    The highest probability of each image falls into one of ``bins`` bins of equal width, closed above; the error is the
    mean over images of |accuracy - mean confidence| of their bin: 0 to 1.
    """
    probabilities = special.softmax(logits.astype(np.float64), axis=1)
    confidence, right = probabilities.max(axis=1), logits.argmax(axis=1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(place, right, bins) - np.bincount(place, confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))
