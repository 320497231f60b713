"""Learning loss (Yoo and Kweon 2019): the candidates of highest predicted loss are labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates, NoOptions

if TYPE_CHECKING:
    from torch import Tensor


def score(candidates: Candidates, options: NoOptions) -> Tensor:
    """Return the loss that the loss prediction module predicts for each candidate."""
    assert candidates.predicted_loss is not None
    return candidates.predicted_loss


ACQUISITION = Acquisition(score, needs=frozenset({"predicted_loss"}))
