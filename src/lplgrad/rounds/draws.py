"""The examples that training draws: mini-batches on the device, augmented and normalised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lplgrad.machine.devices import to_tensor
from lplgrad.machine.randomness import Purpose
from lplgrad.modalities import View
from lplgrad.rounds.pool import Indices
from lplgrad.rounds.round import Round
from lplgrad.study.settings import Normalization

NONE = np.empty(0, dtype=np.int64)
PURPOSES = {"batches": Purpose.BATCHES, "augmenting": Purpose.AUGMENTATION}


class Draws:
    """The draws of a training: what ``recipes.Draw`` describes.

    The loop sets ``stage``, ``epoch``, ``progress`` and ``rate`` before each step.

    Args:
        stored: the labelled examples as they are stored, on the device, shape (L, ...).
        labels: their classes, int64, shape (L,).
        batch_size: of ``labeled``.
        view: how they become network input.
        stream: returns the random stream of a purpose.
        newest: how many of the labelled examples were labelled last; None for all.
        pool: all examples of the pool as they are stored, shape (N, ...).
        unlabeled, labeled, unknown: positions in the pool of those without a label, with one, and bought with a class
            that is unknown.
    """

    def __init__(
        self,
        stored: Tensor,
        labels: Tensor,
        batch_size: int,
        view: View,
        stream: Callable[[Purpose | str], np.random.Generator],
        newest: int | None = None,
        pool: npt.NDArray[Any] | None = None,
        unlabeled: Indices = NONE,
        labeled: Indices = NONE,
        unknown: Indices = NONE,
    ) -> None:
        self.labels, self.batch_size, self.view = labels, batch_size, view
        self.device = stored.device
        self.augment = view.augmenter(stored)
        self.new_stream = stream
        self.all_examples = pool
        self.unlabeled_positions, self.labeled_positions, self.unknown_positions = unlabeled, labeled, unknown
        self.streams: dict[str, np.random.Generator] = {}  # by name; the progress file has their positions
        self.plans: dict[str, Tensor] = {}  # by order, what is left of a pass
        self.stage, self.epoch, self.progress, self.rate = 0, 0, 0.0, 0.0
        self.labeled_count = len(labels)
        self.newest_count = len(labels) if newest is None else newest
        self.unlabeled_count = len(unlabeled)

    def stream(self, name: str) -> np.random.Generator:
        """Return the random stream of a name."""
        if name not in self.streams:
            self.streams[name] = self.new_stream(PURPOSES.get(name, name))
        return self.streams[name]

    def begin_epoch(self, epoch: int) -> None:
        """End all passes, so that the streams' positions alone determine the epoch, counted from 0."""
        self.epoch = epoch
        self.plans.clear()
        self.order = np.empty(0, dtype=np.int64)

    def labeled(self, order: str = "main", count: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the next mini-batch of an order."""
        plan = self.plans.get(order)
        if plan is None or not plan.shape[1]:
            plan = self._plan("" if order == "main" else f"{order}: ")
        size = self.batch_size if count is None else count
        part, self.plans[order] = plan[:, :size], plan[:, size:]
        return self.view.plain(self.augment(part[0], part[1:])), self.labels[part[0]]

    def _plan(self, prefix: str) -> Tensor:
        order = self.stream(f"{prefix}batches").permutation(len(self.labels))
        draws = self.augment.draw(self.stream(f"{prefix}augmenting"))
        # One tensor, because a GPU waits for every copy: positions in the order of the pass, and their draws.
        return to_tensor(np.stack([order, *draws[:, order]]), self.device)

    def unlabeled(self, count: int) -> Tensor:
        """Return the next ``count`` inputs without a label, fewer if the pool has fewer."""
        count = min(count, self.unlabeled_count)
        if len(self.order) < count:
            again = self.stream("unlabeled batches").permutation(self.unlabeled_positions)
            self.order = np.concatenate([self.order, again])
        taken, self.order = self.order[:count], self.order[count:]
        return self.pool(taken, augmented=True)

    def pool(self, positions: Indices, augmented: bool = False) -> Tensor:
        """Return inputs of the pool at some positions."""
        assert self.all_examples is not None
        stored = to_tensor(self.all_examples[positions], self.device)
        if augmented:
            augment = self.view.augmenter(stored)
            draws = to_tensor(augment.draw(self.stream("pool augmenting")), self.device)
            stored = augment(torch.arange(len(positions), device=self.device), draws)
        return self.view.plain(stored)


def draws_of(
    here: Round[Any],
    normalization: Normalization,
    batch_size: int,
    stream: Callable[[Purpose | str], np.random.Generator],
) -> Draws:
    """Return the examples of a round, on its device."""
    stored, labeled = here.data.splits["train"].inputs, here.labeled.known
    return Draws(
        to_tensor(stored[labeled.indices], here.device),
        to_tensor(labeled.labels, here.device),
        batch_size,
        here.view(normalization),
        stream,
        int((labeled.rounds == here.number).sum()),
        stored,
        np.setdiff1d(np.arange(len(stored)), here.labeled.indices),
        labeled.indices,
        np.setdiff1d(here.labeled.indices, labeled.indices),
    )
