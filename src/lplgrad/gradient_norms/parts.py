"""The forms in which a layer gives a parameter's per-sample gradients, each of which knows its squared norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Part(Protocol):
    """The gradients of one parameter, for each sample of a batch."""

    def squared_norm(self, dtype: torch.dtype | None = None) -> Tensor:
        """Squared norm of each sample's gradient, float64, shape (B,)."""

    @staticmethod
    def joined(parts: Sequence[Any]) -> Part:
        """The sum over several calls of one layer."""


def squares(gradients: Tensor) -> Tensor:
    """Sum of the squares over all but the first dimension, float64, shape (B,).

    Rows are added up in the tensors' own precision (bfloat16 in float32), and the rows' sums in float64: about as exact
    as float64 throughout and several times as fast.

    Args:
        gradients: shape (B, ..., N).
    """
    dtype = torch.float32 if gradients.dtype == torch.bfloat16 else gradients.dtype
    rows: Tensor = torch.linalg.vector_norm(gradients, dim=-1, dtype=dtype)
    return rows.flatten(1).double().square().sum(dim=1)


def gram_is_cheaper(positions: int, fan_in: int, fan_out: int) -> bool:
    """Whether the two Gram matrices over positions take fewer multiplications than the gradient itself."""
    return positions * (fan_in + fan_out) < fan_in * fan_out


@dataclass(frozen=True)
class OuterProducts:
    """A weight's gradient as a sum of outer products over T positions, in G independent groups.

    Attributes:
        inputs: shape (B, G, T, I).
        gradients: at the outputs, shape (B, G, T, O).
    """

    inputs: Tensor
    gradients: Tensor

    @staticmethod
    def joined(parts: Sequence[OuterProducts]) -> OuterProducts:
        """The positions of all parts, one after another."""
        return OuterProducts(
            torch.cat([part.inputs for part in parts], dim=2), torch.cat([part.gradients for part in parts], dim=2)
        )

    def squared_norm(self, dtype: torch.dtype | None = None) -> Tensor:
        """Squared Frobenius norm of each sample's gradient, float64, shape (B,).

        Args:
            dtype: what the factors are rounded to where the gradient itself is computed.
        """
        positions, fan_in = self.inputs.shape[2:]
        fan_out = self.gradients.shape[3]
        if gram_is_cheaper(positions, fan_in, fan_out):
            product = (self.inputs @ self.inputs.mT) * (self.gradients @ self.gradients.mT)
            return product.sum(dim=3).sum(dim=(1, 2), dtype=torch.float64).clamp_min(0)
        dtype = dtype or self.inputs.dtype
        return squares(self.gradients.to(dtype).mT @ self.inputs.to(dtype))


@dataclass(frozen=True)
class Direct:
    """A parameter's gradient itself, shape (B, ...): of a bias, a scale or a shift."""

    gradient: Tensor

    @staticmethod
    def joined(parts: Sequence[Direct]) -> Direct:
        """Their sum."""
        return Direct(torch.stack([part.gradient for part in parts]).sum(dim=0))

    def squared_norm(self, dtype: torch.dtype | None = None) -> Tensor:
        """Squared L2 norm of each sample's gradient, float64, shape (B,)."""
        return squares(self.gradient.flatten(1).unsqueeze(1))


@dataclass(frozen=True)
class Rows:
    """An embedding's gradient: at each of T positions a gradient that is added to one row.

    Attributes:
        rows: shape (B, T); -1 where nothing is added.
        gradients: shape (B, T, D).
    """

    rows: Tensor
    gradients: Tensor

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        """The positions of all parts, one after another."""
        return Rows(
            torch.cat([part.rows for part in parts], dim=1), torch.cat([part.gradients for part in parts], dim=1)
        )

    def squared_norm(self, dtype: torch.dtype | None = None) -> Tensor:
        """Squared Frobenius norm of each sample's gradient, float64, shape (B,)."""
        shared = (self.rows.unsqueeze(1) == self.rows.unsqueeze(2)) & (self.rows >= 0).unsqueeze(1)
        return ((self.gradients @ self.gradients.mT) * shared).sum(dim=(1, 2), dtype=torch.float64).clamp_min(0)
