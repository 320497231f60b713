"""Variation ratio (Freeman 1965; Beluch et al. 2018): the share of predictions that disagree with the modal class.

Cost: one forward pass per candidate of each member of an ensemble, or ``passes`` with dropout (25 by default).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._samples import Options, entropy_of, log_probabilities, mean_of, needs
from lplgrad.machine.randomness import stream

if TYPE_CHECKING:
    from torch import Tensor


def score(candidates: Candidates, options: Options) -> Tensor:
    """Return one minus the share of votes for the class with most votes, float64, shape (S,). Each of the N predictions
    votes for its most likely class."""
    predictions = log_probabilities(candidates, options)
    votes = predictions.argmax(dim=2)
    counts = votes.new_zeros(len(votes), predictions.shape[2]).scatter_add_(1, votes, votes.new_ones(votes.shape))
    return 1 - counts.amax(dim=1).double() / votes.shape[1]


def choose(candidates: Candidates, options: Options) -> Choice:
    """Choose the highest variation ratios. Ties are common, because there are at most N values: the higher entropy of
    the mean prediction comes first, then a draw from the seed, the round and the candidate."""
    ratios = score(candidates, options).cpu().numpy()
    uncertainty = entropy_of(mean_of(log_probabilities(candidates, options))).cpu().numpy()
    generator = stream(candidates.seed, "ties of variation ratios", candidates.round_number)
    draws = generator.random(int(candidates.indices.max()) + 1)[candidates.indices]
    order = np.lexsort([draws, -uncertainty, -ratios])
    return Choice(order[: candidates.query_size], ratios.astype(np.float32))


ACQUISITION = Acquisition(score, choose, needs, Options, alone=True)
