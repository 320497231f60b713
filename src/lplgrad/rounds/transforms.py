"""Augmentation and normalisation of uint8 images, on the device, in whole batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from lplgrad.study.settings import Augmentation, Normalization


class Normalize:
    """Scale images on a device to [0, 1] and standardise each channel."""

    def __init__(self, settings: Normalization, device: torch.device) -> None:
        mean = torch.tensor(settings.mean, dtype=torch.float64)
        std = torch.tensor(settings.std, dtype=torch.float64)
        self.scale = (1 / (255 * std)).float().view(1, -1, 1, 1).to(device)
        self.shift = (-mean / std).float().view(1, -1, 1, 1).to(device)

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

    def __call__(self, batch: Tensor, draws: Tensor) -> Tensor:
        """Return the augmented images at some positions, shape (B,), with their draws, shape (3, B), int64 on the
        device: uint8, shape (B, H, W, C).
        """
        top, left, flip = draws
        images = self.crops[batch, top, left].permute(0, 2, 3, 1)
        if self.settings.horizontal_flip:
            images = torch.where(flip.bool().view(-1, 1, 1, 1), images.flip(2), images)
        return images


def to_tensor(array: npt.NDArray[np.uint8 | np.int64], device: torch.device) -> Tensor:
    """Copy images, labels or draws to the device."""
    return torch.from_numpy(np.array(array)).to(device)


def batch_size(height: int, width: int) -> int:
    """Return the number of images in a batch of an evaluation, which follows from the size of an image alone."""
    return max(1, 256 * 32 * 32 // (height * width))
