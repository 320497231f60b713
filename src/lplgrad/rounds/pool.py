"""The pool of a trial: labelled examples, candidates of a round, and test examples that are scored like candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from lplgrad.machine.errors import UserError
from lplgrad.machine.randomness import Purpose, stream

Indices = npt.NDArray[np.int64]
TEST_EXAMPLES = 1000  # scored after every query to compare scores with true losses; all, if the set has fewer


UNKNOWN = -1  # the label of an example that the annotator could not label


def _none() -> Indices:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class LabeledSet:
    """The labels that a trial has bought by a round, sorted by round and index.

    An example whose label is unknown has been paid for. It is never a candidate again. Core-set treats it like the
    other labelled examples, but nothing is trained on it.
    """

    indices: Indices = field(default_factory=_none)  # positions in the training pool, int64, shape (L,), each once
    rounds: Indices = field(default_factory=_none)  # in which each was bought (1: the start), int64, shape (L,)
    labels: Indices = field(default_factory=_none)  # the class of each, or ``UNKNOWN``, int64, shape (L,)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def known(self) -> LabeledSet:
        """Return those whose label is known: what a training trains on."""
        there = self.labels != UNKNOWN
        return LabeledSet(self.indices[there], self.rounds[there], self.labels[there])

    def extended(self, chosen: Indices, labels: Indices, round_number: int) -> LabeledSet:
        """Return the labelled set after ``chosen`` got ``labels``, each of shape (b,), for round ``round_number``."""
        repeated = np.intersect1d(self.indices, chosen)
        if len(repeated) or len(np.unique(chosen)) < len(chosen):
            raise ValueError(f"a query chose examples twice or examples that have labels: {repeated[:5]}")
        order = np.argsort(chosen)
        return LabeledSet(
            np.concatenate([self.indices, chosen[order]]),
            np.concatenate([self.rounds, np.full(len(chosen), round_number, dtype=np.int64)]),
            np.concatenate([self.labels, labels[order]]),
        )


def draw_start(examples: int, size: int, seed: int, classes: Indices | None = None) -> Indices:
    """Draw the examples that are labelled for round 1, without replacement.

    The seed determines one permutation of the pool. A uniform draw takes its first ``size`` examples. A stratified draw
    takes from each class its first examples. How many follows from the size of the class by the method of the largest
    remainder: first the whole part of the class's proportional share, then one more for the classes whose shares have
    the largest fractions. Of equal fractions, the smaller class number comes first.

    Args:
        examples: size N of the training pool.
        size: how many examples are drawn.
        seed: of the trial.
        classes: of all examples of the pool, shape (N,), for a stratified draw; None for a uniform one.

    Returns:
        Indices, ascending, int64, shape (size,).

    Raises:
        UserError: the pool has fewer examples.
    """
    if size > examples:
        raise UserError(f"start: {size} examples are to be labelled, but the pool has {examples}")
    order = stream(seed, Purpose.INITIAL_LABELS).permutation(examples)
    if classes is None:
        return np.sort(order[:size])
    members = [order[classes[order] == one] for one in np.unique(classes)]
    whole, fractions = np.divmod([size * len(of_class) for of_class in members], examples)
    whole[np.argsort(-fractions, kind="stable")[: size - whole.sum()]] += 1
    return np.sort(np.concatenate([of_class[:count] for of_class, count in zip(members, whole, strict=True)]))


def draw_candidates(
    examples: int,
    labeled: LabeledSet,
    size: int | Literal["all"],
    seed: int,
    round_number: int,
    unavailable: Sequence[int] | Indices = (),
) -> Indices:
    """Draw the candidates: a random subset S of the unlabelled pool (paper, section III; Beluch et al. 2018).

    Seed and round determine one permutation of all examples. The candidates are its first ``size`` examples without a
    label, so strategies with different labelled sets still draw nearly the same candidates.

    Args:
        examples: size N of the training pool.
        labeled: the labelled examples.
        size: size of the subset S, or ``all`` for the whole unlabelled pool.
        seed, round_number: of the trial and its round, from 1.
        unavailable: further examples that are no candidates.

    Returns:
        Indices of the candidates, ascending, int64, shape (S,).

    Raises:
        UserError: fewer than ``size`` examples have no label.
    """
    left = examples - len(labeled) - len(unavailable)
    if size != "all" and size > left:
        raise UserError(
            f"candidates: {size} are to be drawn in round {round_number}, but only {left} of {examples} examples are "
            "left without a label; lower candidates, or set it to all"
        )
    order = stream(seed, Purpose.CANDIDATES, round_number).permutation(examples)
    unlabeled = order[~np.isin(order, np.concatenate([labeled.indices, unavailable]))]
    return np.sort(unlabeled if size == "all" else unlabeled[:size])


def draw_test_examples(examples: int, seed: int) -> Indices:
    """Draw the test examples that are scored after every query. A seed draws the same in all rounds and strategies.

    Returns:
        Positions in a test set of so many examples, ascending, int64, shape (min(examples, ``TEST_EXAMPLES``),).
    """
    return np.sort(stream(seed, Purpose.TEST_EXAMPLES).permutation(examples)[:TEST_EXAMPLES])
