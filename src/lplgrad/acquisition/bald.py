"""BALD (Houlsby et al. 2011; Gal et al. 2017): mutual information of the prediction and the network.

Cost: one forward pass per candidate of each member of an ensemble, or ``passes`` with dropout (25 by default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates
from lplgrad.acquisition._samples import Options, entropy_of, log_probabilities, mean_of, needs

if TYPE_CHECKING:
    from torch import Tensor


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return the entropy of the mean prediction minus the mean entropy, in nats, at least 0."""
    predictions = log_probabilities(candidates, options)
    return (entropy_of(mean_of(predictions)) - entropy_of(predictions).mean(dim=1)).clamp(min=0)


ACQUISITION = Acquisition(score, needs=needs, options=Options, alone=True)
