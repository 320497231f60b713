"""Least confidence (Lewis and Gale 1994): the probability of the most likely class is lowest.

Some papers call this score of a single prediction the variation ratio. ``variation_ratio`` counts votes of several
predictions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.acquisition._residuals import residuals
from lplgrad.study.validation import NoOptions

if TYPE_CHECKING:
    from torch import Tensor


def score(candidates: Candidates, options: NoOptions) -> Tensor:
    """Return one minus the probability of the most likely class, from 0 to 1 - 1/C, float64, shape (S,)."""
    return residuals(candidates["logits"]).amin(dim=1).abs()


ACQUISITION = Acquisition(score, needs=lambda options: {"logits": None}, alone=True)
