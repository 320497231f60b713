"""The examples that training draws: mini-batches on the device, augmented and normalised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lplgrad.machine.randomness import Purpose
from lplgrad.rounds.pool import Indices
from lplgrad.rounds.round import Round
from lplgrad.rounds.transforms import Augment, Normalize, to_tensor
from lplgrad.study.settings import Augmentation, Normalization

PURPOSES = {"batches": Purpose.BATCHES, "augmenting": Purpose.AUGMENTATION}


class Draws:
    """The draws of a training: what ``recipes.Draw`` describes.

    The loop sets ``epoch``, ``progress`` and ``rate`` before each step.

    Args:
        images: the labelled images on the device, uint8, shape (L, H, W, C).
        labels: their classes, int64, shape (L,).
        batch_size: of ``labeled``.
        augmentation, normalization: the settings.
        stream: returns the random stream of a purpose.
        newest: how many of the labelled images were labelled last; None for all.
        pool: all images of the pool, uint8, shape (N, H, W, C).
        unlabeled: positions of those without a label.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        augmentation: Augmentation,
        normalization: Normalization,
        stream: Callable[[Purpose | str], np.random.Generator],
        newest: int | None = None,
        pool: npt.NDArray[np.uint8] | None = None,
        unlabeled: Indices | None = None,
    ) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.device = images.device
        self.augmentation = augmentation
        self.normalize = Normalize(normalization, self.device)
        self.augment = Augment(images, augmentation)
        self.new_stream = stream
        self.all_images, self.all_unlabeled = pool, unlabeled
        self.streams: dict[str, np.random.Generator] = {}  # by name; the progress file has their positions
        self.passes: dict[str, Iterator[tuple[Tensor, Tensor]]] = {}
        self.epoch, self.progress, self.rate = 0, 0.0, 0.0
        self.labeled_count = len(labels)
        self.newest_count = len(labels) if newest is None else newest
        self.unlabeled_count = 0 if unlabeled is None else len(unlabeled)

    def stream(self, name: str) -> np.random.Generator:
        """Return the random stream of a name."""
        if name not in self.streams:
            self.streams[name] = self.new_stream(PURPOSES.get(name, name))
        return self.streams[name]

    def begin_epoch(self, epoch: int) -> None:
        """End all passes, so that the streams' positions alone determine the epoch, counted from 0."""
        self.epoch = epoch
        self.passes.clear()
        self.order = np.empty(0, dtype=np.int64)

    def labeled(self, order: str = "main") -> tuple[Tensor, Tensor]:
        """Return the next mini-batch of an order."""
        if order not in self.passes:
            self.passes[order] = self._passes("" if order == "main" else f"{order} ")
        return next(self.passes[order])

    def _passes(self, prefix: str) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            order = self.stream(f"{prefix}batches").permutation(len(self.images))
            draws = self.augment.draw(self.stream(f"{prefix}augmenting"))
            # One tensor, because a GPU waits for every copy: positions in the order of the pass, and their draws.
            plan = to_tensor(np.stack([order, *draws[:, order]]), self.device)
            for part in torch.split(plan, self.batch_size, dim=1):
                yield self.normalize(self.augment(part[0], part[1:])), self.labels[part[0]]

    def unlabeled(self, count: int) -> Tensor:
        """Return the next ``count`` inputs without a label, fewer if the pool has fewer."""
        assert self.all_images is not None
        assert self.all_unlabeled is not None
        count = min(count, len(self.all_unlabeled))
        if len(self.order) < count:
            again = self.stream("unlabeled batches").permutation(self.all_unlabeled)
            self.order = np.concatenate([self.order, again])
        taken, self.order = self.order[:count], self.order[count:]
        augment = Augment(to_tensor(self.all_images[taken], self.device), self.augmentation)
        draws = to_tensor(augment.draw(self.stream("unlabeled augmenting")), self.device)
        return self.normalize(augment(torch.arange(count, device=self.device), draws))

    def pool(self, positions: Indices) -> Tensor:
        """Return inputs of the pool at some positions, not augmented."""
        assert self.all_images is not None
        return self.normalize(to_tensor(self.all_images[positions], self.device))


def draws_of(
    here: Round[Any],
    normalization: Normalization,
    batch_size: int,
    stream: Callable[[Purpose | str], np.random.Generator],
) -> Draws:
    """Return the examples of a round, on its device."""
    images, labeled = here.data.splits["train"].images, here.labeled.known
    return Draws(
        to_tensor(images[labeled.indices], here.device),
        to_tensor(labeled.labels, here.device),
        batch_size,
        here.settings.augmentation,
        normalization,
        stream,
        int((labeled.rounds == here.number).sum()),
        images,
        np.setdiff1d(np.arange(len(images)), here.labeled.indices),
    )
