"""Random streams: one for each purpose, seed and round.

Every draw comes from ``numpy.random.SeedSequence(seed, spawn_key=(purpose, round))``, and none from a global generator.
A purpose is a number, or a name that is hashed, so that a new recipe needs no number here.
The strategy is not part of the key. The strategies of a seed are therefore paired: they start from the same labels and
weights and draw the same candidates. Adding a strategy changes no other strategy.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is used for. Every result depends on these numbers: add new ones at the end."""

    INITIAL_LABELS = 0
    CANDIDATES = 1
    MODEL_WEIGHTS = 2
    AUXILIARY_WEIGHTS = 3
    BATCHES = 4
    AUGMENTATION = 5
    RANDOM_SCORES = 6
    QUERY_AUGMENTATION = 7
    OBSERVED_EXAMPLES = 8
    TEST_EXAMPLES = 9


def stream(seed: int, purpose: Purpose | str, round_number: int = 0) -> np.random.Generator:
    """Return the random stream of a trial's seed, a purpose and a round. Round 0 is for draws made once per trial."""
    number = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8]) if isinstance(purpose, str) else int(purpose)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number, round_number)))


def torch_seed(generator: np.random.Generator) -> int:
    """Draw a seed for a torch generator."""
    return int(generator.integers(2**63))
