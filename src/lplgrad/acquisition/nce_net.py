"""The query of NCE-Net (Wan et al. 2021): candidates that are far from the prototypes of all classes, or confused.

The recipe ``nce_net`` trains the prototypes. With P the probability that it gives to each class, of C classes, the
rejection is the sum of 1 - P over the classes. The confusion is the sum of 1 - max P + P. The official code chooses by
rejection and computes confusion without using it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.study.validation import Settings

if TYPE_CHECKING:
    from torch import Tensor


class Options(Settings):
    """Options of the score.

    Attributes:
        by: ``rejection`` labels candidates far from all prototypes first, ``confusion`` those whose probabilities are
            almost equal.
    """

    by: Literal["rejection", "confusion"] = "rejection"


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return the rejection or the confusion of each candidate, float64, shape (S,), from 0 to C."""
    found: Tensor = candidates[options.by]
    return found


ACQUISITION = Acquisition(score, needs=lambda options: {options.by: None}, options=Options, alone=True)
