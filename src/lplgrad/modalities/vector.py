"""Vectors: float32 arrays of shape (N, D), such as tables of numbers or embeddings of a foundation model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from lplgrad.modalities import Modality, View, _floats
from lplgrad.study.validation import NoOptions

if TYPE_CHECKING:
    import torch


def view(
    augmentation: NoOptions,
    mean: Sequence[float],
    std: Sequence[float],
    shape: Sequence[int],
    device: torch.device,
) -> View:
    """Return the view of vectors of a shape (D,)."""
    from lplgrad.modalities._channels_last import FloatView  # imports torch

    return FloatView(mean, std, device, each=shape[0])


def problem(inputs: npt.NDArray[Any]) -> str | None:
    """Say what is wrong with an array of vectors, if anything is."""
    return _floats.problem(inputs, "N, D")


MODALITY = Modality(view, problem, _floats.statistics, tuple, _floats.flattened, embedded=True)
