"""Random sampling: the score of an image depends on its index, the seed and the round alone."""

from __future__ import annotations

from lplgrad.acquisition import Acquisition, Candidates, Scores
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.study.validation import NoOptions


def score(candidates: Candidates, options: NoOptions) -> Scores:
    """Draw a number uniformly from [0, 1) for each image of the pool, and return those of the candidates."""
    draws = stream(candidates.seed, Purpose.RANDOM_SCORES, candidates.round_number)
    return draws.random(int(candidates.indices.max()) + 1)[candidates.indices]


ACQUISITION = Acquisition(score)
