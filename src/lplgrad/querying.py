"""What an acquisition function needs to be given, computed once for all candidates of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import TypedDict

import torch
from torch import Tensor

from lplgrad.acquisition import Need
from lplgrad.evaluation import predict
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms
from lplgrad.networks import Networks


class Measured(TypedDict, total=False):
    """The measured fields of ``acquisition.Candidates``. Logits are always among them: every pass gives them."""

    logits: Tensor
    features: Tensor | None
    labeled_features: Tensor | None
    predicted_loss: Tensor | None
    gradient_norms: GradientNorms


def measure(
    networks: Networks,
    needs: Set[Need],
    loss: Callable[[Tensor], Tensor] | None,
    candidates: Iterable[Tensor],
    labeled: Iterable[Tensor],
) -> Measured:
    """Compute what an acquisition function declares.

    Args:
        networks: of the round; in eval mode afterwards, else unchanged.
        needs: the declaration.
        loss: of the logits, in float64, to one scalar a sample; for ``gradient_norms``.
        candidates: normalised images of the S candidates, in batches.
        labeled: the same of the labelled set; read only where its features are needed.
    """
    measured: Measured
    if "gradient_norms" in needs:
        if len(needs) > 1 + ("logits" in needs):
            raise NotImplementedError("gradient norms together with features or predicted losses")
        assert loss is not None
        norms = gradient_norms(networks, loss, candidates)
        measured = {"logits": norms.output, "gradient_norms": norms}
    else:
        found = predict(networks, candidates, "features" in needs, "predicted_loss" in needs)
        measured = {"logits": found.logits, "features": found.features, "predicted_loss": found.predicted_loss}
    if "labeled_features" in needs:
        measured["labeled_features"] = predict(networks, labeled, features=True).features
    return measured


def gradient_norms(networks: Networks, loss: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> GradientNorms:
    """Gradient norms of the main model over batches of images, which are split to what is fastest.

    Where memory runs out, as it may on a GPU that others use too, half as many are taken at a time from there on.
    """
    networks.model.eval()
    parts: list[GradientNorms] = []
    largest: int | None = None
    with PerSampleGradientNorms(networks.model) as norms_of:
        for images in batches:
            size = min(gradient_batch_size(images), largest or len(images))
            start = 0
            while start < len(images):
                try:
                    parts.append(norms_of(images[start : start + size], loss))
                    start += size
                except torch.OutOfMemoryError:
                    if size == 1:
                        raise
                    largest = size = size // 2
    return GradientNorms(
        torch.cat([part.total for part in parts]),
        torch.cat([part.sum for part in parts]),
        torch.cat([part.output for part in parts]),
    )


def gradient_batch_size(images: Tensor) -> int:
    """How many images to ask for their gradient norms at a time: from their size and the kind of device alone, so that
    results do not depend on memory.

    On a CPU few are fastest, since their feature maps fit its cache; a GPU needs many to be busy.

    Args:
        images: shape (B, channels, H, W).
    """
    pixels = images.shape[2] * images.shape[3]
    return max(4, 32 * 32 * 32 // pixels) if images.device.type == "cpu" else max(1, 256 * 32 * 32 // pixels)
