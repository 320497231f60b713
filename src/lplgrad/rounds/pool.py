"""The pool of a trial: labelled images, candidates of a round, and the test images that are scored like candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import Purpose, stream

Indices = npt.NDArray[np.int64]
TEST_IMAGES = 1000  # scored after every query to compare scores with true losses; all, if the set has fewer


@dataclass(frozen=True)
class LabeledSet:
    """The labelled images of a round, sorted by round and index."""

    indices: Indices  # positions in the training pool, int64, shape (L,), each once
    rounds: Indices  # the round in which each was labelled (1: the initial draw), int64, shape (L,)

    def __len__(self) -> int:
        return len(self.indices)

    def extended(self, chosen: Indices, round_number: int) -> LabeledSet:
        """Return the labelled set after ``chosen`` was labelled for round ``round_number``."""
        repeated = np.intersect1d(self.indices, chosen)
        if len(repeated) or len(np.unique(chosen)) < len(chosen):
            raise ValueError(f"a query chose images twice or images that have labels: {repeated[:5]}")
        return LabeledSet(
            np.concatenate([self.indices, np.sort(chosen)]),
            np.concatenate([self.rounds, np.full(len(chosen), round_number, dtype=np.int64)]),
        )


def initial_labels(images: int, query_size: int, seed: int) -> LabeledSet:
    """Draw the labels of round 1: ``query_size`` of ``images`` images, uniformly and without replacement."""
    if query_size > images:
        raise UserError(f"query_size: {query_size} images are to be labelled, but the pool has {images}")
    drawn = stream(seed, Purpose.INITIAL_LABELS).permutation(images)[:query_size]
    return LabeledSet(np.sort(drawn), np.ones(query_size, dtype=np.int64))


def draw_candidates(
    images: int, labeled: LabeledSet, size: int | Literal["all"], seed: int, round_number: int
) -> Indices:
    """Draw the candidates: a random subset S of the unlabelled pool (paper, section III; Beluch et al. 2018).

    Seed and round determine one permutation of all images. The candidates are its first ``size`` images without a
    label, so strategies with different labelled sets still draw nearly the same candidates.

    Args:
        images: size N of the training pool.
        labeled: the labelled images.
        size: size of the subset S, or ``all`` for the whole unlabelled pool.
        seed, round_number: of the trial and its round, from 1.

    Returns:
        Indices of the candidates, ascending, int64, shape (S,).

    Raises:
        UserError: fewer than ``size`` images have no label.
    """
    left = images - len(labeled)
    if size != "all" and size > left:
        raise UserError(
            f"candidates: {size} are to be drawn in round {round_number}, but only {left} of {images} images are left "
            "without a label; lower candidates, or set it to all"
        )
    order = stream(seed, Purpose.CANDIDATES, round_number).permutation(images)
    unlabeled = order[~np.isin(order, labeled.indices)]
    return np.sort(unlabeled if size == "all" else unlabeled[:size])


def draw_test_images(images: int, seed: int) -> Indices:
    """Draw the test images that are scored after every query, the same in all rounds and for all strategies of a seed:
    positions in a test set of so many images, ascending, int64, shape (min(images, ``TEST_IMAGES``),)."""
    return np.sort(stream(seed, Purpose.TEST_IMAGES).permutation(images)[:TEST_IMAGES])
