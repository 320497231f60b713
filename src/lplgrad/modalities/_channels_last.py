"""The view of float arrays whose last axis is the channels: vectors (N, D) and series (N, T, C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


class Standardize:
    """Standardise each channel, and move channels behind the batch: (B, ..., C) to (B, C, ...), float32."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float64).float().to(device)
        self.scale = (1 / torch.tensor(std, dtype=torch.float64)).float().to(device)

    def __call__(self, stored: Tensor) -> Tensor:
        return ((stored.float() - self.mean) * self.scale).movedim(-1, 1).contiguous()


class Shift:
    """Shift examples along their first axis at random, by padding with zeros and cropping.

    Args:
        stored: shape (N, T, ...), on their device.
        padding: the largest shift, in steps; 0 for none, with which examples need no such axis.
    """

    def __init__(self, stored: Tensor, padding: int) -> None:
        self.stored, self.padding = stored, padding

    def draw(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Draw the start of each example's crop, shape (1, N); shape (0, N) without padding."""
        count = len(self.stored)
        if not self.padding:
            return np.empty((0, count), dtype=np.int64)
        return generator.integers(2 * self.padding + 1, size=(1, count))

    def __call__(self, positions: Tensor, draws: Tensor) -> Tensor:
        """Return the shifted examples at some positions, shape (B,), with their draws, shape (1, B)."""
        batch = self.stored[positions]
        if not self.padding:
            return batch
        steps = batch.shape[1]
        padded = F.pad(batch, (0, 0) * (batch.dim() - 2) + (self.padding, self.padding))
        rows = draws[0].unsqueeze(1) + torch.arange(steps, device=batch.device)
        return padded[torch.arange(len(batch), device=batch.device).unsqueeze(1), rows]


class FloatView:
    """The view of float examples.

    Args:
        mean, std: of each channel.
        device: of the examples.
        numbers: in a pass for evaluation, and in one for gradient norms.
        each: numbers in an example.
        padding: of ``Shift``.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        each: int,
        numbers: tuple[int, int] = (2**20, 2**18),
        padding: int = 0,
    ) -> None:
        self.plain: Callable[[Tensor], Tensor] = Standardize(mean, std, device)
        self.each, self.numbers, self.padding = each, numbers, padding

    def augmenter(self, stored: Tensor) -> Shift:
        """Return what shifts examples."""
        return Shift(stored, self.padding)

    def batch_size(self, norms: bool = False) -> int:
        """Return how many examples to pass at a time."""
        return min(4096, max(1, self.numbers[norms] // self.each))
