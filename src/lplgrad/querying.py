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
    """Gradient norms of the main model over batches of images."""
    networks.model.eval()
    with PerSampleGradientNorms(networks.model) as norms_of:
        parts = [norms_of(images, loss) for images in batches]
    return GradientNorms(
        torch.cat([part.total for part in parts]),
        torch.cat([part.sum for part in parts]),
        torch.cat([part.output for part in parts]),
    )
