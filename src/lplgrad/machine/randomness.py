"""Random streams: one for each purpose, seed and round, and none shared by two.

Every draw of a study comes from ``numpy.random.SeedSequence(seed, spawn_key=(purpose, round))``. The strategy is
never part of the key, so that the strategies of one seed are paired (they start from the same labels and weights and
draw the same candidates), and a strategy that is added changes nothing for the others. Nothing draws from a global
generator.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


class Purpose(IntEnum):
    """What a stream is drawn for. The numbers are part of every result: add new ones at the end."""

    INITIAL_LABELS = 0
    CANDIDATES = 1
    MODEL_WEIGHTS = 2
    AUXILIARY_WEIGHTS = 3
    BATCHES = 4
    AUGMENTATION = 5
    RANDOM_SCORES = 6
    QUERY_AUGMENTATION = 7
    OBSERVED_IMAGES = 8
    TEST_IMAGES = 9


def stream(seed: int, purpose: Purpose, round_number: int = 0) -> np.random.Generator:
    """The random stream of one purpose.

    Args:
        seed: the trial's seed, not negative.
        purpose: what is drawn.
        round_number: the round, from 1; 0 for what is drawn once per trial.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), round_number)))


def torch_stream(seed: int, purpose: Purpose, round_number: int = 0) -> torch.Generator:
    """The same stream as a torch generator on the CPU, for the initialisation of weights."""
    import torch

    return torch.Generator().manual_seed(int(stream(seed, purpose, round_number).integers(2**63)))
