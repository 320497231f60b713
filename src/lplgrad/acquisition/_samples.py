"""What acquisition functions over several predictions for one example share: members of an ensemble, or dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from lplgrad.acquisition import Candidates, Dropout
from lplgrad.study.validation import Count, Settings, refuse_changed

if TYPE_CHECKING:
    from torch import Tensor


class Options(Settings):
    """Where the predictions come from.

    Attributes:
        samples: ``members`` of an ensemble, or passes with ``dropout`` (Gal and Ghahramani 2016).
        passes: the number T of passes with dropout.
    """

    samples: Literal["members", "dropout"] = "members"
    passes: Count = 25

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        if self.samples == "members":
            refuse_changed(self, "samples: members", "passes")
        return self


def needs(options: Options) -> dict[str, Any]:
    """Return what the predictions need."""
    return {"member_logits": None} if options.samples == "members" else {"stochastic_logits": Dropout(options.passes)}


def log_probabilities(candidates: Candidates, options: Options) -> Tensor:
    """Return the logarithm of N predictions for each candidate, float64, shape (S, N, C)."""
    (need,) = needs(options)
    logits: Tensor = candidates[need]
    return logits.double().log_softmax(dim=2)


def entropy_of(log_probabilities: Tensor) -> Tensor:
    """Return the entropy of distributions in nats, shape (...), from their logarithms, shape (..., C)."""
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def mean_of(log_probabilities: Tensor) -> Tensor:
    """Return the logarithm of the mean distribution, shape (S, C), from those of N, shape (S, N, C)."""
    count = log_probabilities.new_tensor(float(log_probabilities.shape[1]))
    return log_probabilities.logsumexp(dim=1) - count.log()
