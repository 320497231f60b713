"""The state of one batch: calls of layers, gradients at their outputs, and norms that have been computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Tap(torch.autograd.Function):
    """The identity. Its backward pass gives the gradient at a layer's output to a listener.

    The anchor gives the output a graph, although neither the input nor the parameters need a gradient. The backward
    pass then computes only the gradients at the layers' outputs.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, listener: Callable[[Tensor], None]) -> Tensor:
        ctx.listener = listener
        # Share the memory, but not as a view, which an activation could not overwrite in place. No supported layer
        # reads its own output in the backward pass.
        return output.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.listener(gradient)
        return gradient, None, None


@dataclass
class Call:
    """A call of a layer: its input, and the version of the input, because in-place operations may change it later."""

    input: Tensor
    version: int | None

    @classmethod
    def of(cls, given: Tensor) -> Call:
        """Record a call with an input."""
        return cls(given.detach(), None if given.is_inference() else given._version)

    @property
    def unchanged(self) -> bool:
        """Whether nothing has been written to the input since the call."""
        return self.version is None or self.input._version == self.version


class Pass:
    """The state of a batch: calls and gradients of each layer, and norms of parameter tensors, float64, shape (B,).

    A careful pass computes doubtful samples again, layer by layer. Another only notes them in ``doubtful``.
    """

    def __init__(self, size: int, device: torch.device, careful: bool) -> None:
        self.careful = careful
        self.calls: dict[nn.Module, list[Call]] = defaultdict(list)
        self.gradients: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.norms: dict[nn.Parameter, Tensor] = {}
        self.squared = torch.zeros(size, dtype=torch.float64, device=device)
        self.doubtful = torch.zeros(size, dtype=torch.bool, device=device)
        self.anchor = torch.zeros((), device=device, requires_grad=True)

    def add(self, parameter: nn.Parameter, norm: Tensor, squared: Tensor) -> None:
        """Add a parameter tensor with its norm and the square of it, shape (B,) each."""
        self.norms[parameter] = norm
        self.squared += squared

    def total(self) -> Tensor:
        """Return the norm over all parameters together, shape (B,)."""
        total = self.squared.sqrt()
        extreme = (self.squared < 1e-280) | ~(self.squared < 1e280)  # the squares leave the range of float64
        self.doubtful |= extreme
        if self.careful and self.norms and extreme.any():
            of_tensors = torch.stack(list(self.norms.values()))[:, extreme]
            largest = of_tensors.amax(dim=0)
            total[extreme] = (of_tensors / largest.where(largest > 0, 1.0)).norm(dim=0) * largest
        return total

    def sum(self) -> Tensor:
        """Return the sum of the norms of all parameter tensors, shape (B,)."""
        return sum(self.norms.values(), torch.zeros_like(self.squared))


def unit_length(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit gradients and their norms, shape (B,). A zero gradient stays zero."""
    flat = slopes.reshape(len(slopes), -1)
    # Divide by the largest entry first, because the square of 1e-200 underflows.
    largest = flat.abs().amax(dim=1, keepdim=True)
    flat = flat / largest.where(largest > 0, 1.0)
    length = flat.norm(dim=1, keepdim=True)
    flat = flat / length.where(length > 0, 1.0)
    return flat.view_as(slopes), (largest * length).squeeze(1)


def slope_of(output: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of each sample's loss with respect to the model's output, float64."""
    logits = output.double().requires_grad_()
    losses = loss(logits)
    if losses.shape != (len(output),):
        raise ValueError(f"the loss must give one scalar a sample, ({len(output)},), not {tuple(losses.shape)}")
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    return slope
