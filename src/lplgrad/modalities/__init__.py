"""Modalities: one module for each kind of examples, which defines ``MODALITY``.

A modality says what a stored array of examples looks like, and how its examples become network input. Arrays are stored
with the channels last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lplgrad.machine.registry import Registry
from lplgrad.study.validation import NoOptions, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Augmenter(Protocol):
    """Augments N examples that are on the device, as they are stored."""

    def draw(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw for all examples at once, on the CPU, so that draws are the same on every device: shape (K, N)."""
        ...

    def __call__(self, positions: Tensor, draws: Tensor) -> Tensor:
        """Return the augmented examples at some positions, shape (B,), with their draws, shape (K, B), int64 on the
        device: as they are stored, shape (B, ...)."""
        ...


class View(Protocol):
    """How examples of a data set become network input on a device."""

    def augmenter(self, stored: Tensor) -> Augmenter:
        """Return what augments examples, given as they are stored, on the device."""
        ...

    @property
    def plain(self) -> Callable[[Tensor], Tensor]:
        """The function from examples as they are stored, on the device, to network input, float32, shape (B, ...)."""
        ...

    def batch_size(self, norms: bool = False) -> int:
        """Return how many examples an evaluation passes at a time, or a pass for gradient ``norms``.

        It follows from the shape of an example and the kind of device alone, so that results do not depend on memory.
        """
        ...


@dataclass(frozen=True)
class Modality:
    """A kind of examples."""

    # From the augmentation, mean and standard deviation of each channel, the shape of a stored example and a device
    view: Callable[[Any, Sequence[float], Sequence[float], Sequence[int], torch.device], View]
    # From an array of examples to what is wrong with its type or shape, or None
    problem: Callable[[npt.NDArray[Any]], str | None]
    # From the examples of the training pool, and the folder for warnings, to mean and standard deviation per channel
    statistics: Callable[[npt.NDArray[Any], Path], tuple[list[float], list[float]]]
    # From the shape of a stored example to that of one network input
    input_shape: Callable[[Sequence[int]], tuple[int, ...]]
    # From stored examples, shape (N, ...), to numbers, float64, shape (N, D), whose Euclidean distance says how alike
    # examples are
    numbers: Callable[[npt.NDArray[Any]], npt.NDArray[np.float64]]
    pictures: bool = False  # whether figures can show the stored examples as images
    embedded: bool = False  # whether the stored numbers are a representation, so that no other is needed
    # The settings of the augmentation, which are the key ``augmentation`` of a data set
    augmentation: type[Settings] = NoOptions


registry = Registry[Modality](__name__, __path__, "MODALITY")
