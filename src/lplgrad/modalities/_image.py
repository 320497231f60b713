"""Augmentation and normalisation of uint8 images, on the device, in whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lplgrad.modalities import Augmenter
from lplgrad.modalities.image import Augmentation


class Normalize:
    """Scale images on a device to [0, 1] and standardise each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        means, deviations = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * deviations)).float().view(1, -1, 1, 1).to(device)
        self.shift = (-means / deviations).float().view(1, -1, 1, 1).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32, shape (B, C, H, W) in channels-last memory, from uint8, shape (B, H, W, C)."""
        return torch.addcmul(self.shift, images.permute(0, 3, 1, 2).float(), self.scale)


class Augment:
    """Crop at random after padding with black, and flip horizontally at random.

    All draws of an epoch are made at once on the CPU, so that they are the same on every device.

    Args:
        images: uint8, shape (N, H, W, C), on their device.
        settings: padding, and whether to flip.
    """

    def __init__(self, images: Tensor, settings: Augmentation) -> None:
        self.settings = settings
        self.count, height, width, _ = images.shape
        padding = settings.crop_padding
        padded = F.pad(images, (0, 0, padding, padding, padding, padding))
        # Every crop of every image as a view: (N, 2P+1, 2P+1, C, H, W). Nothing is copied until it is indexed.
        self.crops = padded.unfold(1, height, 1).unfold(2, width, 1)

    def draw(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw for an epoch, shape (3, N): top and left of each image's crop, and 1 where it is flipped."""
        offsets = 2 * self.settings.crop_padding + 1
        top = generator.integers(offsets, size=self.count)
        left = generator.integers(offsets, size=self.count)
        flip = generator.random(self.count) < (0.5 if self.settings.horizontal_flip else 0.0)
        return np.stack([top, left, flip])

    def __call__(self, positions: Tensor, draws: Tensor) -> Tensor:
        """Return the augmented images at some positions, shape (B,), with their draws, shape (3, B), int64 on the
        device: uint8, shape (B, H, W, C).
        """
        top, left, flip = draws
        images = self.crops[positions, top, left].permute(0, 2, 3, 1)
        if self.settings.horizontal_flip:
            images = torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(2), images)
        return images


class ImageView:
    """The view of images of a shape (H, W, C)."""

    def __init__(
        self,
        augmentation: Augmentation,
        mean: Sequence[float],
        std: Sequence[float],
        shape: Sequence[int],
        device: torch.device,
    ) -> None:
        self.augmentation, self.device = augmentation, device
        self.pixels = shape[0] * shape[1]
        self.plain = Normalize(mean, std, device)

    def augmenter(self, stored: Tensor) -> Augmenter:
        """Return what crops and flips images, uint8, shape (N, H, W, C)."""
        return Augment(stored, self.augmentation)

    def batch_size(self, norms: bool = False) -> int:
        """Return how many images to pass at a time.

        For gradient norms on a CPU few are fastest, because their feature maps fit its cache. A GPU needs many to be
        busy.
        """
        if not norms:
            return max(1, 256 * 32 * 32 // self.pixels)
        at_once, least = (32, 4) if self.device.type == "cpu" else (256, 32)
        return max(least, at_once * 32 * 32 // self.pixels)
