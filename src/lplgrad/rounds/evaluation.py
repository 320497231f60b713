"""Passes over images in eval mode: predictions and accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lplgrad.rounds.models import global_average
from lplgrad.rounds.networks import Networks


@dataclass(frozen=True)
class Predictions:
    """Outputs of networks for N images, float32; None if not wanted."""

    logits: Tensor  # shape (N, C)
    features: Tensor | None  # penultimate, shape (N, D)
    predicted_loss: Tensor | None  # of the loss prediction module, shape (N,)


@torch.no_grad()
def predict(
    networks: Networks, batches: Iterable[Tensor], features: bool = False, predicted_loss: bool = False
) -> Predictions:
    """Pass over batches of normalised images, shape (B, channels, H, W), in eval mode and in float32.

    ``features`` and ``predicted_loss`` say what to return besides logits.
    """
    for network in networks.named().values():
        network.eval()
    collected: dict[str, list[Tensor]] = {"logits": [], "features": [], "predicted_loss": []}
    for images in batches:
        stages = networks.model.stages(images)
        pooled = global_average(stages[-1])
        collected["logits"].append(networks.model.classify(pooled))
        if features:
            collected["features"].append(pooled)
        if predicted_loss:
            assert networks.auxiliary is not None
            collected["predicted_loss"].append(networks.auxiliary(stages))
    found = {name: torch.cat(parts) if parts else None for name, parts in collected.items()}
    assert found["logits"] is not None
    return Predictions(found["logits"], found["features"], found["predicted_loss"])


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Return the fraction of images whose highest logit is their class's; of equal logits the first counts."""
    return float((logits.argmax(axis=1) == labels).mean())


def accuracy_per_class(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> list[float | None]:
    """Return the accuracy of each class; None for a class without test images."""
    right = logits.argmax(axis=1) == labels
    classes = logits.shape[1]
    found = np.bincount(labels[right], minlength=classes)
    there = np.bincount(labels, minlength=classes)
    return [int(hits) / int(count) if count else None for hits, count in zip(found, there, strict=True)]
