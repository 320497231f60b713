"""Images: uint8 arrays of shape (N, H, W, C) with one or three channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lplgrad.machine.log import say
from lplgrad.modalities import Modality, View
from lplgrad.study.validation import Settings

if TYPE_CHECKING:
    import torch


class Augmentation(Settings):
    """What is done to the training images at random.

    Attributes:
        horizontal_flip: mirror every second image.
        crop_padding: pixels of black padding on each side before a random crop to the original size.
    """

    horizontal_flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0


def view(
    augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], shape: Sequence[int], device: torch.device
) -> View:
    """Return the view of images of a shape (H, W, C)."""
    from lplgrad.modalities._image import ImageView  # imports torch

    return ImageView(augmentation, mean, std, shape, device)


def problem(images: npt.NDArray[Any]) -> str | None:
    """Say what is wrong with an array of images, if anything is."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        return f"must be uint8 of shape (N, H, W, 1 or 3), not {images.dtype} of shape {images.shape}"
    return None


def statistics(images: npt.NDArray[np.uint8], folder: Path) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, of images scaled to [0, 1]. Warn of little contrast."""
    histograms = _histograms(images)
    _warn_of_little_contrast(folder, histograms)
    return _statistics(histograms)


def input_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return channels, height and width."""
    height, width, channels = shape
    return channels, height, width


def shrunk(images: npt.NDArray[np.uint8], side: int = 32) -> npt.NDArray[np.float64]:
    """Pixels for distances, shape (N, D), in [0, 1]: uint8 images of shape (N, H, W, C), averaged over blocks until no
    side is longer than ``side``."""
    count, height, width, channels = images.shape
    block = max(1, math.ceil(max(height, width) / side))
    rows, columns = height // block, width // block
    cut = images[:, : rows * block, : columns * block].astype(np.float32) / 255
    means = cut.reshape(count, rows, block, columns, block, channels).mean(axis=(2, 4))
    numbers: npt.NDArray[np.float64] = means.reshape(count, -1).astype(np.float64)
    return numbers


def _histograms(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the number of pixels with each level in each channel, shape (C, 256)."""
    histograms = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for channel, histogram in enumerate(histograms):
        for block in np.array_split(images, max(1, images[..., 0].size >> 22)):
            histogram += np.bincount(block[..., channel].ravel(), minlength=256)
    return histograms


def _statistics(histograms: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each channel over all pixels, for images scaled to [0, 1]."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for histogram in histograms:
        weights = histogram / histogram.sum()
        mean = float(weights @ levels)
        means.append(mean)
        # A channel without contrast is centred, but not scaled.
        deviations.append(float(np.sqrt(weights @ (levels - mean) ** 2)) or 1.0)
    return means, deviations


def _warn_of_little_contrast(folder: Path, histograms: npt.NDArray[np.int64]) -> None:
    """Warn if the pixels, without the darkest and brightest 0.1 %, use a quarter of the levels or less.

    This happens if 12-bit numbers are stored in 16 bits: they keep 17 of 256 levels. Defective pixels cannot hide it.
    """
    shares = np.cumsum(histograms.sum(axis=0)) / histograms.sum()
    low, high = (int(np.searchsorted(shares, share)) for share in (0.001, 0.999))
    used = np.flatnonzero(histograms.any(axis=0))
    if used[-1] == used[0]:
        say(f"warning: {folder}: every pixel of the training images has the same level, {used[0]} of 255")
    elif high - low <= 64:
        say(
            f"warning: {folder}: almost all pixels of the training images have levels from {low} to {high} of 255; if "
            "their files hold more than 8 bits a pixel, set value_range to the range of numbers that they use"
        )


MODALITY = Modality(view, problem, statistics, input_shape, shrunk, pictures=True, augmentation=Augmentation)
