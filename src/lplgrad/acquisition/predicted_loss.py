"""Learning loss (Yoo and Kweon 2019): the candidates of highest predicted loss are labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.study.validation import NoOptions

if TYPE_CHECKING:
    from torch import Tensor


def score(candidates: Candidates, options: NoOptions) -> Tensor:
    """Return the loss that the loss prediction module predicts for each candidate."""
    predicted: Tensor = candidates["predicted_loss"]
    return predicted


ACQUISITION = Acquisition(score, needs=lambda options: {"predicted_loss": None}, alone=True)
