"""What an acquisition function needs to be given, computed once for all candidates of a round; then for test images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lplgrad.acquisition import Acquisition, Candidates, Need, scores_of
from lplgrad.datasets import Images
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms
from lplgrad.machine.devices import lacks_memory
from lplgrad.machine.log import track
from lplgrad.rounds.evaluation import batch_size, batches_of, predict
from lplgrad.rounds.networks import Networks
from lplgrad.rounds.transforms import Normalize, to_tensor


class Measured(TypedDict, total=False):
    """The measured fields of ``acquisition.Candidates``. Logits are always among them: every pass gives them."""

    logits: Tensor
    features: Tensor | None
    labeled_features: Tensor | None
    predicted_loss: Tensor | None
    gradient_norms: GradientNorms


@dataclass(frozen=True)
class Scorer:
    """A round's model in place, and the acquisition function that asks it.

    Attributes:
        function, options: the acquisition function.
        networks: of the round, on the device.
        normalize: as they were trained.
        device: where they are.
    """

    function: Acquisition
    options: Any
    networks: Networks
    normalize: Normalize
    device: torch.device

    def batches(
        self,
        images: npt.NDArray[np.uint8],
        positions: npt.NDArray[np.int64],
        what: str,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """Normalised images in batches, with a line of progress that says ``what`` they are.

        Args:
            images: a split, uint8, shape (N, H, W, C).
            positions: which of them.
            what: in words.
            augment: done to every batch before.
        """
        size = batch_size(*images.shape[1:3])
        for read in track(batches_of(images, positions, size), -(-len(positions) // size), what):
            batch = to_tensor(read, self.device)
            yield self.normalize(batch if augment is None else augment(batch))

    def measure(self, candidates: Iterable[Tensor], labeled: Iterable[Tensor] = ()) -> Measured:
        """What the function needs to be given; see the function ``measure``."""
        loss = self.function.loss(self.options) if self.function.loss is not None else None
        return measure(self.networks, self.function.needs, loss, candidates, labeled)

    def score_test_images(
        self, test: Images, positions: npt.NDArray[np.int64], about: dict[str, Any]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Score test images as if they were candidates, beside their true loss.

        Args:
            test: the split, never augmented.
            positions: which of its images.
            about: what candidates are told of the round: seed, round_number, query_size.

        Returns:
            Scores, and cross-entropies in nats of the same logits, in float64; each of shape (N,). What a model that
            is not quite sound says may not be finite.
        """
        measured = self.measure(self.batches(test.images, positions, "test images"))
        scores = scores_of(self.function, Candidates(indices=positions, **about, **measured), self.options)
        labels = to_tensor(test.labels[positions], self.device)
        losses = F.cross_entropy(measured["logits"].double(), labels, reduction="none")
        return scores, losses.cpu().numpy()


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
                except RuntimeError as error:
                    if size == 1 or not lacks_memory(error):
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
    at_once, least = (32, 4) if images.device.type == "cpu" else (256, 32)
    return max(least, at_once * 32 * 32 // (images.shape[2] * images.shape[3]))
