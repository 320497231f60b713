"""Who answers a query: an oracle gives the labels of examples, and its answers go into the label files of the rounds.

Training and queries read labels from these files alone. No other module opens the labels of the training pool, except
diagnostics that declare it by importing ``pool_labels`` (a test lists them).
"""

from __future__ import annotations

from typing import Protocol

from lplgrad.datasets.prepared.arrays import DatasetArrays, open_array
from lplgrad.machine.errors import UserError
from lplgrad.rounds.pool import Indices


class Oracle(Protocol):
    """An annotator."""

    def answer(self, indices: Indices) -> Indices:
        """Return the class of each example of the training pool, int64, shape (L,); -1 where it cannot say."""
        ...


class SimulatedOracle:
    """An annotator who looks the labels up in the pool, and so knows all of them."""

    def __init__(self, data: DatasetArrays) -> None:
        self.labels = pool_labels(data)

    def answer(self, indices: Indices) -> Indices:
        """Return the class of each example of the training pool, int64, shape (L,)."""
        return self.labels[indices]


def pool_labels(data: DatasetArrays) -> Indices:
    """Read the classes of all examples of the training pool, shape (N,). ``open_dataset`` has checked them.

    Raises:
        UserError: a person labels the data set, so nobody knows them.
    """
    labels: Indices = open_array(data.folder / "train_labels.npy", mapped=False)
    if labels.min(initial=0) < 0:
        raise UserError(
            f"{data.folder}: a person labels this data set, so the labels cannot be looked up (docs/labeling.md)"
        )
    return labels
