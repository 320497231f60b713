"""What acquisition functions over the predicted probabilities share: how far a prediction is from its own class."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def residuals(logits: Tensor) -> Tensor:
    """Return ``p - e``: the predicted probabilities minus the one-hot vector of the most likely class.

    It is the gradient, at the logits, of the cross-entropy whose label is the predicted class. The entry of that class
    is minus the sum of the others. So all entries keep their digits however certain the prediction is; ``1 - p`` of the
    predicted class is 0 in float64 from a margin of 37 in the logits on.

    Args:
        logits: shape (S, C).

    Returns:
        float64, shape (S, C). The predicted class, the first of equal ones, has the lowest entry, at most 0. The
        others are their probabilities.
    """
    logits = logits.double()
    predicted = logits.argmax(dim=1, keepdim=True)
    weights = (logits - logits.gather(1, predicted)).exp().scatter(1, predicted, 0.0)
    others = weights.sum(dim=1, keepdim=True)
    return weights.scatter(1, predicted, -others) / (1 + others)


def binary_variance(logits: Tensor) -> Tensor:
    """Return the variance ``p (1 - p)`` of whether the predicted class, of probability ``p``, is right.

    Args:
        logits: shape (S, C).

    Returns:
        float64, shape (S,), from 0 to 1/4. It keeps its digits however certain the prediction is.
    """
    missed = residuals(logits).amin(dim=1).abs()  # 1 - p
    return missed * (1 - missed)
