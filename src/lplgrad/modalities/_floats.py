"""What modalities of float arrays share: checks, statistics and distances. The channels are the last axis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 4096  # examples at a time, because a pool may not fit into memory as float64


def problem(inputs: npt.NDArray[Any], shape: str) -> str | None:
    """Say what is wrong with an array, if anything is: its type, its number of axes, or a number that is not finite."""
    if inputs.dtype != np.float32 or inputs.ndim != len(shape.split(",")) or 0 in inputs.shape:
        return f"must be float32 of shape ({shape}), not {inputs.dtype} of shape {inputs.shape}"
    for start in range(0, len(inputs), BLOCK):
        block = inputs[start : start + BLOCK]
        if not np.isfinite(block).all():
            row = start + int(np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))[0])
            return f"must be finite numbers; example {row} has others"
    return None


def statistics(inputs: npt.NDArray[np.float32], folder: Path) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel; 1 for a channel that does not vary."""
    channels, count = inputs.shape[-1], inputs[..., 0].size

    def blocks() -> Iterator[npt.NDArray[np.float64]]:
        for start in range(0, len(inputs), BLOCK):
            yield inputs[start : start + BLOCK].reshape(-1, channels).astype(np.float64)

    mean = np.sum([block.sum(axis=0) for block in blocks()], axis=0) / count
    variance = np.sum([np.square(block - mean).sum(axis=0) for block in blocks()], axis=0) / count
    # Rounding leaves a little variance in a constant channel.
    deviation = np.where(variance > 1e-14 * np.square(mean), np.sqrt(variance), 1.0)
    return mean.tolist(), np.where(deviation > 0, deviation, 1.0).tolist()


def flattened(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the numbers of each example in a row, shape (N, D)."""
    return inputs.reshape(len(inputs), -1).astype(np.float64)
