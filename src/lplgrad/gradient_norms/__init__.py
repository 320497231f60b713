"""Exact norms of per-sample gradients, for whole batches and without building a per-sample gradient of the network.

For a batch of B samples, a model and a scalar loss per sample, this gives for every sample the norm of the gradient of
*its own* loss with respect to all parameters. A gradient of a layer's parameters follows from the layer's input ``x``
and the gradient ``g`` at its output, so one forward pass and one backward pass to the layers' outputs suffice:

- a linear layer applied at T positions has the gradient ``sum_t g_t x_t^T``, whose squared norm is also the sum of the
  elementwise product of the Gram matrices ``(x x^T) * (g g^T)`` over positions; the cheaper of the two is computed;
- a convolution is a linear layer applied to the patches of its input, which are not laid out (``convolution.py``);
- a normalisation scales and shifts: ``sum g * x_hat`` and ``sum g``;
- an embedding adds up ``g`` over the positions that share a row.

The gradient at the logits is taken in float64 and scaled to length one before it is propagated, and the norm scaled
back after: a confident sample's gradient would otherwise lose its digits, or underflow. docs/gradient-norms.md has the
derivations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lplgrad.gradient_norms.layers import PARTS, supported_layers


@dataclass(frozen=True)
class GradientNorms:
    """Norms of each sample's gradient, float64, shape (B,) each.

    Attributes:
        total: one L2 (Frobenius) norm over all parameters together (paper, eq. 8).
        sum: the sum over the parameter tensors of each tensor's L2 norm.
        output: what the model returned for the batch, without a graph.
    """

    total: Tensor
    sum: Tensor
    output: Tensor


class _Tap(torch.autograd.Function):
    """The identity; its backward hands the gradient at a layer's output to a listener.

    The anchor gives the output a graph although neither input nor parameters need a gradient, so that the backward
    pass computes nothing but the gradients at the layers' outputs.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor, listener: Callable[[Tensor], None]) -> Tensor:
        ctx.listener = listener
        # The same memory, but no view, which an activation could not overwrite in place. No supported layer's backward
        # reads its own output, so nothing misses it.
        return output.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        ctx.listener(gradient)
        return gradient, None, None


class _Pass:
    """What is known of a batch while it passes: of each layer the inputs and gradients so far, and the norms so far."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.calls: dict[nn.Module, list[Tensor]] = defaultdict(list)
        self.gradients: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.total = torch.zeros(size, dtype=torch.float64, device=device)
        self.sum = torch.zeros(size, dtype=torch.float64, device=device)
        self.anchor = torch.zeros((), device=device, requires_grad=True)


def _unit_length(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's slope at length one, and its length, shape (B,); of no slope nothing, and zero.

    The largest entry is divided out first, since the square of 1e-200 is zero.
    """
    flat = slopes.flatten(1)
    largest = flat.abs().amax(dim=1, keepdim=True)
    flat = flat / largest.where(largest > 0, 1.0)
    length = flat.norm(dim=1, keepdim=True)
    flat = flat / length.where(length > 0, 1.0)
    return flat.view_as(slopes), (largest * length).squeeze(1)


class PerSampleGradientNorms:
    """Computes gradient norms of a model, batch by batch.

    Use it as a context: on leaving, the model is as it was. The model must be in eval mode where it has batch norm,
    since in train mode a sample's loss depends on its neighbours. Within the context the weights of convolutions lie in
    channels-last memory, which is faster.

    Args:
        model: any module whose parameters belong to supported layers: Linear, Conv1d and Conv2d (strides, dilation,
            groups, any padding), BatchNorm, GroupNorm, LayerNorm and Embedding. A layer may be called several times.
        contractions: what the factors of the weights' gradients are rounded to where they are multiplied, for instance
            ``torch.bfloat16``; sums stay float32, and so do both passes of the network and all Gram matrices. By
            default nothing is rounded.

    Raises:
        NotImplementedError: a parameter belongs to a layer of another kind, or to two layers; it is named.
        ValueError: batch norm in train mode.
    """

    def __init__(self, model: nn.Module, contractions: torch.dtype | None = None) -> None:
        self.model = model
        self.contractions = contractions
        self._layers = supported_layers(model)
        self._handles: list[Any] = []
        self._requires_grad: dict[nn.Parameter, bool] = {}
        self._relaid: list[tuple[Tensor, Tensor]] = []
        self._pass: _Pass | None = None

    def __enter__(self) -> Self:
        self._requires_grad = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        for parameter in self._requires_grad:
            parameter.requires_grad_(False)
        for layer in self._layers:
            self._handles.append(layer.register_forward_hook(self._tap))
            if isinstance(layer, nn.Conv2d):
                weight: Tensor = layer.weight
                self._relaid.append((weight, weight.data))
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for weight, original in self._relaid:
            weight.data = original if weight.data_ptr() == original.data_ptr() else original.copy_(weight.data)
        self._relaid.clear()
        for parameter, required in self._requires_grad.items():
            parameter.requires_grad_(required)

    def __call__(self, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> GradientNorms:
        """The gradient norms of a batch.

        Args:
            inputs: what the model takes, the first dimension being the batch, shape (B, ...).
            loss: from the model's output, in float64, to one scalar a sample, shape (B,).

        Returns:
            Norms over the parameters that required a gradient when the context was entered.
        """
        if not self._handles:
            raise RuntimeError("enter the context first: with PerSampleGradientNorms(model) as norms: ...")
        size = len(inputs)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        self._pass = _Pass(size, inputs.device)
        try:
            with torch.enable_grad():
                output = self.model(inputs)
                logits = output.detach().double().requires_grad_()
                losses = loss(logits)
                if losses.shape != (size,):
                    raise ValueError(f"the loss must give one scalar a sample, ({size},), not {tuple(losses.shape)}")
                (slope,) = torch.autograd.grad(losses.sum(), logits)
            unit, scale = _unit_length(slope)
            # The same as output.backward(unit), which would import sympy to compare two shapes.
            (output * unit.to(output.dtype)).sum().backward()
            return GradientNorms(self._pass.total.sqrt() * scale, self._pass.sum * scale, output.detach())
        finally:
            self._pass = None  # with all feature maps, which would otherwise outlive a lack of memory

    def _tap(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert self._pass is not None
        calls = self._pass.calls[layer]
        call = len(calls)
        calls.append(arguments[0].detach())
        tapped: Tensor = _Tap.apply(output, self._pass.anchor, lambda gradient: self._listen(layer, call, gradient))
        return tapped

    def _listen(self, layer: nn.Module, call: int, gradient: Tensor) -> None:
        """Collect the gradient at a layer's output, and once it has come for every call of the layer, add its norms."""
        assert self._pass is not None
        calls, arrived = self._pass.calls[layer], self._pass.gradients[layer]
        arrived.append((calls[call], gradient.detach()))
        if len(arrived) < len(calls):
            return
        with torch.no_grad():
            every = [PARTS[type(layer)](layer, x, g) for x, g in arrived]
            for name, parameter in layer.named_parameters(recurse=False):
                if self._requires_grad[parameter]:
                    parts = [parts[name] for parts in every]
                    part = parts[0] if len(parts) == 1 else type(parts[0]).joined(parts)
                    squared = part.squared_norm(self.contractions)
                    self._pass.total += squared
                    self._pass.sum += squared.sqrt()
        del self._pass.gradients[layer], self._pass.calls[layer]
