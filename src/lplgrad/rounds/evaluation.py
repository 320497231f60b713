"""Passes over examples in eval mode: predictions and accuracy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lplgrad.recipes import Learner

LOGITS = frozenset({"logits"})


@torch.no_grad()
def predict(learner: Learner, batches: Iterable[Tensor], wanted: frozenset[str] = LOGITS) -> dict[str, Tensor]:
    """Pass over batches of network input, shape (B, ...), in eval mode and in float32.

    Returns:
        The ``wanted`` outputs of the learner for all N examples, by name, shape (N, ...) each.
    """
    for network in learner.networks.values():
        network.eval()
    collected: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for inputs in batches:
        outputs = learner.predict(inputs, wanted)
        for name, parts in collected.items():
            parts.append(outputs[name])
    return {name: torch.cat(parts) for name, parts in collected.items()}


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the fraction of examples whose highest logit is their class's; of equal logits the first counts."""
    return float((logits.argmax(axis=1) == labels).mean())


def accuracy_per_class(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> list[float | None]:
    """Return the accuracy of each class; None for a class without test examples."""
    right = logits.argmax(axis=1) == labels
    classes = logits.shape[1]
    found = np.bincount(labels[right], minlength=classes)
    there = np.bincount(labels, minlength=classes)
    return [int(hits) / int(count) if count else None for hits, count in zip(found, there, strict=True)]
