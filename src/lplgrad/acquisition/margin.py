"""Margin sampling (Scheffer et al. 2001): the two most likely classes have almost the same probability.

The margin is that of the probabilities, as in the paper and in all common implementations. The margin of the logits
ranks the candidates in another order as soon as there are three classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.acquisition._residuals import residuals
from lplgrad.study.validation import NoOptions

if TYPE_CHECKING:
    from torch import Tensor


def score(candidates: Candidates, options: NoOptions) -> Tensor:
    """Return one minus the difference of the two highest probabilities, from 0 to 1, float64, shape (S,)."""
    apart = residuals(candidates["logits"])
    return apart.amax(dim=1) - apart.amin(dim=1)  # the second probability, plus one minus the first


ACQUISITION = Acquisition(score, needs=lambda options: {"logits": None}, alone=True)
