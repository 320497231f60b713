"""What acquisition functions need: computed once for all candidates of a round, then for test images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lplgrad.acquisition import Acquisition, Candidates, scores_of
from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import GradientNorms, PerSampleGradientNorms
from lplgrad.machine.devices import lacks_memory
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.machine.randomness import Purpose
from lplgrad.rounds import networks
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.networks import Networks
from lplgrad.rounds.pool import Indices, draw_test_images
from lplgrad.rounds.round import Round
from lplgrad.rounds.transforms import Augment, to_tensor
from lplgrad.study.settings import QueryJob


class Scorer:
    """The model of a round on its device, and the acquisition function that scores with it.

    Args:
        here: the round; the model is its checkpoint.
        function, options: the acquisition function.

    Raises:
        UserError: the checkpoint does not fit the data or the function.
    """

    def __init__(self, here: Round[QueryJob], function: Acquisition, options: Any) -> None:
        path = here.arguments.checkpoint
        self.here, self.function, self.options = here, function, options
        self.checkpoint = networks.load(path)
        if "predicted_loss" in function.needs and self.checkpoint.networks.auxiliary is None:
            raise UserError(f"{path}: has no loss prediction module, which {here.settings.acquisition} needs")
        self.checkpoint.check_fits(here.data.channels, here.data.classes)
        self.checkpoint.networks.to(here.device)

    def candidates(self, indices: Indices) -> Candidates:
        """Measure the candidates of the round, shape (S,)."""
        augmenting = self.here.stream(Purpose.QUERY_AUGMENTATION)

        def augmented(images: Tensor) -> Tensor:
            augment = Augment(images, self.here.settings.augmentation, augmenting)
            positions = torch.arange(len(images), device=images.device)
            return augment(positions, to_tensor(augment.draw(), images.device))

        change = augmented if self.here.settings.query_transform == "train" else None
        return self._measure(
            indices,
            self._batches("train", indices, "candidates", change),
            self._batches("train", self.here.labeled.indices, "labelled", change),
        )

    def test_scores(self) -> tuple[Indices, npt.NDArray[np.float32], npt.NDArray[np.float64]]:
        """Score test images as if they were candidates, never augmented.

        Returns:
            Positions in the test set, scores, and cross-entropies in nats of the same logits in float64; each of shape
            (N,). A model that is not quite sound may give numbers that are not finite: the log counts them.
        """
        test = self.here.data.test
        positions = draw_test_images(len(test.images), self.here.seed)
        measured = self._measure(positions, self._batches("test", positions, "test images"))
        scores = scores_of(self.function, measured, self.options)
        assert measured.logits is not None
        labels = to_tensor(test.labels[positions], self.here.device)
        losses = F.cross_entropy(measured.logits.double(), labels, reduction="none").cpu().numpy()
        broken = np.count_nonzero(~(np.isfinite(scores) & np.isfinite(losses)))
        if broken:  # no reason to end a query whose candidates all had sound scores
            say(f"{broken} of {len(positions)} test images have a score or a loss that is not finite")
        return positions, scores, losses

    def predictions(self, candidates: Candidates) -> dict[str, Any]:
        """Return entropy, confidence and class of the predictions for the candidates, each of shape (S,)."""
        assert candidates.logits is not None
        return {
            "entropy": entropy(candidates.logits).cpu().numpy(),
            "confidence": candidates.logits.double().softmax(dim=1).amax(dim=1).cpu().numpy(),
            "predicted": candidates.logits.argmax(dim=1).cpu().numpy(),
        }

    def _batches(self, split: str, *arguments: Any) -> Iterable[Tensor]:
        positions, what, *augment = arguments
        return self.here.batches(split, positions, self.checkpoint.normalization, what, *augment)

    def _measure(self, indices: Indices, images: Iterable[Tensor], labeled: Iterable[Tensor] = ()) -> Candidates:
        """Compute what the function needs. The labelled images are read only if their features are needed."""
        trained, needs = self.checkpoint.networks, self.function.needs
        if "gradient_norms" in needs:
            if len(needs) > 1 + ("logits" in needs):
                raise NotImplementedError("gradient norms together with features or predicted losses")
            assert self.function.loss is not None
            norms = gradient_norms(trained, self.function.loss(self.options), images)
            measured: dict[str, Any] = {"logits": norms.output, "gradient_norms": norms}
        else:
            found = predict(trained, images, "features" in needs, "predicted_loss" in needs)
            measured = {"logits": found.logits, "features": found.features, "predicted_loss": found.predicted_loss}
        if "labeled_features" in needs:
            measured["labeled_features"] = predict(trained, labeled, features=True).features
        here = self.here
        return Candidates(indices, here.seed, here.number, here.settings.query_size, **measured)


def gradient_norms(networks: Networks, loss: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> GradientNorms:
    """Compute gradient norms of the main model over batches of images, which are split to the fastest size.

    If memory runs out, as it may on a shared GPU, this size is halved from there on.
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
    return GradientNorms.joined(parts)


def gradient_batch_size(images: Tensor) -> int:
    """Return how many images take part in one pass for gradient norms.

    It follows from their size and the kind of device alone, so that results do not depend on memory. On a CPU few are
    fastest, because their feature maps fit its cache. A GPU needs many to be busy.

    Args:
        images: shape (B, channels, H, W).
    """
    at_once, least = (32, 4) if images.device.type == "cpu" else (256, 32)
    return max(least, at_once * 32 * 32 // (images.shape[2] * images.shape[3]))
