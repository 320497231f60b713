"""Series: float32 arrays of shape (N, T, C), with C channels at each of T steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy.typing as npt
from pydantic import Field

from lplgrad.modalities import Modality, View, _floats
from lplgrad.study.validation import Settings

if TYPE_CHECKING:
    import torch


class Augmentation(Settings):
    """What is done to the training series at random.

    Attributes:
        crop_padding: steps of zeros on each side before a random crop to the original length.
    """

    crop_padding: Annotated[int, Field(ge=0)] = 0


def view(
    augmentation: Augmentation, mean: Sequence[float], std: Sequence[float], shape: Sequence[int], device: torch.device
) -> View:
    """Return the view of series of a shape (T, C)."""
    from lplgrad.modalities._channels_last import FloatView  # imports torch

    numbers = (2**18, 2**14 if device.type == "cpu" else 2**18)  # feature maps have many more channels than the input
    return FloatView(mean, std, device, shape[0], numbers, augmentation.crop_padding)


def problem(inputs: npt.NDArray[Any]) -> str | None:
    """Say what is wrong with an array of series, if anything is."""
    return _floats.problem(inputs, "N, T, C")


def input_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return channels and steps."""
    steps, channels = shape
    return channels, steps


MODALITY = Modality(view, problem, _floats.statistics, input_shape, _floats.flattened, augmentation=Augmentation)
