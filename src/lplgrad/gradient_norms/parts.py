"""Representations of a parameter's per-sample gradients. Each computes their squared norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Part(Protocol):
    """The gradients of one parameter, for each sample of a batch."""

    def squared_norm(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the squared norm of each sample's gradient, float64, and whether it has lost digits, shape (B,) each.

        Digits are lost if terms cancel; None means that none cancel. The caller must check ``out_of_range``. If the
        gradient itself is computed, its factors are rounded to ``dtype``.
        """

    @staticmethod
    def joined(parts: Sequence[Any]) -> Part:
        """Return the sum over several calls of one layer."""


# Numbers processed at a time, in Gram matrices and gradients of single samples. On a CPU they fit into its second-level
# cache. On a GPU they take half a gigabyte in float32. They do not follow the card's memory: cuBLAS may choose a kernel
# by the number of products, so another split can change the last bits.
ENTRIES = {"cpu": 2**20, "cuda": 2**27}
# A smaller sum of squares has lost digits: squares of its larger terms may be too small for the precision.
LEAST = {torch.float32: 1e-24, torch.float64: 1e-270}


def squares(gradients: Tensor) -> Tensor:
    """Return the sum of squares of ``gradients``, shape (B, ..., N), for each sample, float64, shape (B,).

    Rows are summed in the tensor's own precision (half precision in float32), and the sums of rows in float64. This is
    about as exact as float64 throughout and several times as fast.
    """
    dtype = gradients.dtype if gradients.dtype in LEAST else torch.float32
    rows: Tensor = torch.linalg.vector_norm(gradients, dim=-1, dtype=dtype)
    return rows.flatten(1).double().square().sum(dim=1)


def out_of_range(squared: Tensor, dtype: torch.dtype) -> Tensor:
    """Return which sums of squares left the range of a precision: too small, infinite or not a number."""
    return ~((squared > LEAST[dtype]) & (squared < torch.inf))


def of_device(values: dict[str, int], device: torch.device) -> int:
    """Return the value for a kind of device; every kind but a CPU counts as a GPU."""
    return values.get(device.type, values["cuda"])


def at_a_time(entries: dict[str, int], each: int, device: torch.device) -> int:
    """Return how many samples to process at a time, from the allowed numbers per device and the numbers per sample."""
    return max(1, of_device(entries, device) // max(1, each))


# A squared norm from Gram matrices sums products of both signs. Below this part of its bound it has lost its digits.
CANCELLED = 1e-3
# The part of a squared norm that may be lost to products that are too small for the precision.
LOST = 1e-6


def sum_of_products(of_inputs: Tensor, of_gradients: Tensor, fan_in: int, fan_out: int) -> tuple[Tensor, Tensor]:
    """Return the sum of the elementwise product of two Gram matrices, float64, and whether it has lost digits.

    Both results have the shape (B,). The sum is not negative. The first matrix is overwritten.

    By Cauchy and Schwarz, a term is at most the root of the product of the diagonal terms in its row and column. The
    squared sum of the diagonal's roots therefore bounds the sum of absolute terms. Likewise, an error of one matrix's
    entries times the other's squared sum of roots bounds the error of the sum.

    Args:
        of_inputs, of_gradients: shape (B, G, T, T) each, with G independent groups.
        fan_in, fan_out: the number of products that are summed in an entry of each.
    """
    inputs, gradients = (gram.diagonal(dim1=2, dim2=3) for gram in (of_inputs, of_gradients))
    diagonals = torch.stack([inputs * gradients, inputs, gradients]).clamp_min_(0).sqrt_()
    bound, bound_in, bound_out = diagonals.sum(dim=3, dtype=torch.float64).square_().sum(dim=2)
    product = of_inputs.mul_(of_gradients)
    found = product.sum(dim=3).sum(dim=(1, 2), dtype=torch.float64).clamp_min(0)
    tiny = torch.finfo(product.dtype).tiny
    lost = tiny * (fan_in * bound_out + fan_out * bound_in) > LOST * found
    return found, lost if product.dtype == torch.float64 else lost | (found < CANCELLED * bound)


def gram_is_cheaper(positions: int, fan_in: int, fan_out: int) -> bool:
    """Return whether the two Gram matrices over positions take fewer multiplications than the gradient itself."""
    return positions * (fan_in + fan_out) < fan_in * fan_out


@dataclass(frozen=True)
class OuterProducts:
    """A weight's gradient as a sum of outer products over T positions, in G independent groups."""

    inputs: Tensor  # shape (B, G, T, I)
    gradients: Tensor  # at the outputs, shape (B, G, T, O)

    @staticmethod
    def joined(parts: Sequence[OuterProducts]) -> OuterProducts:
        return OuterProducts(
            torch.cat([part.inputs for part in parts], dim=2), torch.cat([part.gradients for part in parts], dim=2)
        )

    def squared_norm(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor | None]:
        groups, positions, fan_in = self.inputs.shape[1:]
        fan_out = self.gradients.shape[3]
        by_gram = gram_is_cheaper(positions, fan_in, fan_out)
        each = groups * (positions**2 if by_gram else fan_in * fan_out)
        count = at_a_time(ENTRIES, each, self.inputs.device)
        dtype = dtype or self.inputs.dtype
        pairs = zip(torch.split(self.inputs, count), torch.split(self.gradients, count), strict=True)
        if by_gram:
            found, lost = zip(*(sum_of_products(x @ x.mT, g @ g.mT, fan_in, fan_out) for x, g in pairs), strict=True)
            return torch.cat(found), torch.cat(lost)
        return torch.cat([squares(g.to(dtype).mT @ x.to(dtype)) for x, g in pairs]), None


@dataclass(frozen=True)
class Direct:
    """The gradient of a bias, a scale or a shift itself, shape (B, ...)."""

    gradient: Tensor

    @staticmethod
    def joined(parts: Sequence[Direct]) -> Direct:
        return Direct(torch.stack([part.gradient for part in parts]).sum(dim=0))

    def squared_norm(self, dtype: torch.dtype | None = None) -> tuple[Tensor, None]:
        return squares(self.gradient.flatten(1).unsqueeze(1)), None


@dataclass(frozen=True)
class Rows:
    """An embedding's gradient: a gradient at each of T positions is added to one row."""

    rows: Tensor  # shape (B, T); -1 if nothing is added
    gradients: Tensor  # shape (B, T, D)

    @staticmethod
    def joined(parts: Sequence[Rows]) -> Rows:
        return Rows(
            torch.cat([part.rows for part in parts], dim=1), torch.cat([part.gradients for part in parts], dim=1)
        )

    def squared_norm(self, dtype: torch.dtype | None = None) -> tuple[Tensor, None]:
        there = self.rows >= 0
        samples = torch.arange(len(self.rows), device=self.rows.device).unsqueeze(1).expand_as(self.rows)
        pairs, place = torch.unique(torch.stack([samples[there], self.rows[there]]), dim=1, return_inverse=True)
        sums = self.gradients.new_zeros(pairs.shape[1], self.gradients.shape[2], dtype=torch.float64)
        sums.index_add_(0, place, self.gradients[there].double())
        found = sums.new_zeros(len(self.rows))
        return found.index_add_(0, pairs[0], sums.square().sum(dim=1)), None
