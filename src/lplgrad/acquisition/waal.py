"""The query of WAAL (Shui et al. 2020): uncertain candidates that the critic finds unlike the labelled examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.study.validation import Number, Settings

if TYPE_CHECKING:
    from torch import Tensor


class Options(Settings):
    """Options of the score.

    Attributes:
        diversity: weight of the critic's output beside the uncertainty.
    """

    diversity: Annotated[Number, Field(ge=0)] = 10.0


def certainty(logits: Tensor) -> Tensor:
    """Return the mean of the L1 and L2 norms of log p, float64, shape (S,). It is lowest for a uniform prediction."""
    logarithms = logits.double().log_softmax(dim=1)
    norms: Tensor = logarithms.norm(p=1, dim=1) + logarithms.norm(p=2, dim=1)
    return norms / 2


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return the weighted output of the critic minus the certainty of the prediction."""
    critic: Tensor = candidates["critic"]
    return options.diversity * critic.double() - certainty(candidates["logits"])


ACQUISITION = Acquisition(score, needs=lambda options: {"logits": None, "critic": None}, options=Options, alone=True)
