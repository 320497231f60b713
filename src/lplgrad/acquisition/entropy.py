"""Entropy sampling (Wang and Shang 2014): the least certain predictions are labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates, NoOptions

if TYPE_CHECKING:
    from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the predicted distribution in nats, float64 (eq. 5 and 6).

    From log-softmax in float64: ``p * log(p)`` is NaN where a probability underflows, and float32 loses a confident
    sample's entropy.

    Args:
        logits: shape (B, C).

    Returns:
        Shape (B,), from 0 to log C.
    """
    log_probabilities = logits.double().log_softmax(dim=1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=1)


def score(candidates: Candidates, options: NoOptions) -> Tensor:
    """The entropy of each candidate's prediction."""
    assert candidates.logits is not None
    return entropy(candidates.logits)


ACQUISITION = Acquisition(score, needs=frozenset({"logits"}))
