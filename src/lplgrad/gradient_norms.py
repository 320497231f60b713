"""Exact norms of per-sample gradients, for whole batches and without building a per-sample gradient of the network.

For a batch of B samples, a model and a scalar loss per sample, this gives for every sample the norm of the gradient of
*its own* loss with respect to all parameters. A gradient of a layer's parameters follows from the layer's input ``x``
and the gradient ``g`` at its output, so one forward pass and one backward pass to the layers' outputs suffice:

- a linear layer applied at T positions has the gradient ``sum_t g_t x_t^T``, whose squared norm is also the sum of the
  elementwise product of the Gram matrices ``(x x^T) * (g g^T)`` over positions; the cheaper of the two is computed;
- a convolution is a linear layer applied to the patches of its input;
- a normalisation scales and shifts: ``sum g * x_hat`` and ``sum g``;
- an embedding adds up ``g`` over the positions that share a row.

The gradient at the logits is taken in float64 and scaled to length one before it is propagated, and the norm scaled
back after: a confident sample's gradient would otherwise lose its digits, or underflow.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


@dataclass(frozen=True)
class OuterProducts:
    """A weight's gradient as a sum of outer products over T positions, in G independent groups.

    Attributes:
        inputs: shape (B, G, T, I).
        gradients: at the outputs, shape (B, G, T, O).
    """

    inputs: Tensor
    gradients: Tensor

    def __add__(self, other: OuterProducts) -> OuterProducts:
        return OuterProducts(
            torch.cat([self.inputs, other.inputs], dim=2), torch.cat([self.gradients, other.gradients], dim=2)
        )

    def squared_norm(self) -> Tensor:
        """Squared Frobenius norm of each sample's gradient, float64, shape (B,)."""
        positions, fan_in = self.inputs.shape[2:]
        fan_out = self.gradients.shape[3]
        if positions * (fan_in + fan_out) < fan_in * fan_out:  # the Gram matrices are cheaper than the gradient
            product = (self.inputs @ self.inputs.mT) * (self.gradients @ self.gradients.mT)
            return product.sum(dim=(1, 2, 3), dtype=torch.float64).clamp_min(0)
        return (self.gradients.mT @ self.inputs).square().sum(dim=(1, 2, 3), dtype=torch.float64)


@dataclass(frozen=True)
class Direct:
    """A parameter's gradient itself, shape (B, ...): of a bias, a scale or a shift."""

    gradient: Tensor

    def __add__(self, other: Direct) -> Direct:
        return Direct(self.gradient + other.gradient)

    def squared_norm(self) -> Tensor:
        """Squared L2 norm of each sample's gradient, float64, shape (B,)."""
        return self.gradient.flatten(1).square().sum(dim=1, dtype=torch.float64)


@dataclass(frozen=True)
class Rows:
    """An embedding's gradient: at each of T positions a gradient that is added to one row.

    Attributes:
        rows: shape (B, T); -1 where nothing is added.
        gradients: shape (B, T, D).
    """

    rows: Tensor
    gradients: Tensor

    def __add__(self, other: Rows) -> Rows:
        return Rows(torch.cat([self.rows, other.rows], dim=1), torch.cat([self.gradients, other.gradients], dim=1))

    def squared_norm(self) -> Tensor:
        """Squared Frobenius norm of each sample's gradient, float64, shape (B,)."""
        shared = (self.rows.unsqueeze(1) == self.rows.unsqueeze(2)) & (self.rows >= 0).unsqueeze(1)
        return ((self.gradients @ self.gradients.mT) * shared).sum(dim=(1, 2), dtype=torch.float64).clamp_min(0)


Part = OuterProducts | Direct | Rows


def _linear(layer: nn.Linear, x: Tensor, g: Tensor) -> dict[str, Part]:
    x, g = (t.reshape(len(t), 1, -1, t.shape[-1]) for t in (x, g))
    return {"weight": OuterProducts(x, g), "bias": Direct(g.sum(dim=(1, 2)))}


def _conv(layer: nn.Conv1d | nn.Conv2d, x: Tensor, g: Tensor) -> dict[str, Part]:
    bias = Direct(g.flatten(2).sum(dim=2))
    if isinstance(layer, nn.Conv1d):  # a row of pixels
        x, g = x.unsqueeze(2), g.unsqueeze(2)
    kernel, stride, dilation, padding = (
        (fill,) * (2 - len(values)) + tuple(values)
        for values, fill in (
            (layer.kernel_size, 1),
            (layer.stride, 1),
            (layer.dilation, 1),
            (layer._reversed_padding_repeated_twice, 0),
        )
    )
    if len(padding) == 2:
        padding = (*padding, 0, 0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if mode == "constant" or isinstance(layer, nn.Conv2d):
        x = F.pad(x, padding, mode=mode)
    else:
        x = F.pad(x.squeeze(2), padding[:2], mode=mode).unsqueeze(2)
    patches = F.unfold(x, kernel, dilation=dilation, stride=stride)  # (B, C * k * k, T)
    size, groups, positions = len(x), layer.groups, g.shape[2] * g.shape[3]
    return {
        "weight": OuterProducts(
            patches.view(size, groups, -1, positions).mT, g.reshape(size, groups, -1, positions).mT
        ),
        "bias": bias,
    }


def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise ValueError("batch norm in train mode: a sample's loss depends on its neighbours; call model.eval()")
    shape = (1, -1, *[1] * (x.dim() - 2))
    deviation = (layer.running_var + layer.eps).sqrt()
    x_hat = (x - layer.running_mean.view(shape)) / deviation.view(shape)
    return _scale_and_shift(g * x_hat, g)


def _group_norm(layer: nn.GroupNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    return _scale_and_shift(g * F.group_norm(x, layer.num_groups, eps=layer.eps), g)


def _scale_and_shift(scaled: Tensor, g: Tensor) -> dict[str, Part]:
    return {name: Direct(t.reshape(*t.shape[:2], -1).sum(dim=2)) for name, t in (("weight", scaled), ("bias", g))}


def _layer_norm(layer: nn.LayerNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    shape = layer.normalized_shape
    x_hat = F.layer_norm(x, shape, eps=layer.eps)
    between = tuple(range(1, x.dim() - len(shape)))
    scaled = g * x_hat
    return {
        "weight": Direct(scaled.sum(dim=between) if between else scaled),
        "bias": Direct(g.sum(dim=between) if between else g),
    }


def _embedding(layer: nn.Embedding, x: Tensor, g: Tensor) -> dict[str, Part]:
    if layer.scale_grad_by_freq or layer.max_norm is not None:
        raise NotImplementedError("Embedding with scale_grad_by_freq or max_norm")
    rows = x.reshape(len(x), -1)
    if layer.padding_idx is not None:
        rows = rows.masked_fill(rows == layer.padding_idx, -1)
    return {"weight": Rows(rows, g.reshape(*rows.shape, -1))}


PARTS: dict[type[nn.Module], Callable[[Any, Tensor, Tensor], dict[str, Part]]] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.Embedding: _embedding,
}


def _supported_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that have parameters.

    Raises:
        NotImplementedError: a layer whose gradient norm is not known here, or a parameter that two layers share.
    """
    owners: dict[nn.Parameter, str] = {}
    layers = []
    for name, layer in model.named_modules():
        parameters = dict(layer.named_parameters(recurse=False))
        if not parameters:
            continue
        if type(layer) not in PARTS:
            known = ", ".join(kind.__name__ for kind in PARTS)
            raise NotImplementedError(f"layer {name!r} is a {type(layer).__name__}; supported: {known}")
        for key, parameter in parameters.items():
            if parameter in owners:
                raise NotImplementedError(f"parameter {name}.{key} is shared with {owners[parameter]}")
            owners[parameter] = f"{name}.{key}"
        layers.append(layer)
    return layers


class PerSampleGradientNorms:
    """Computes gradient norms of a model, batch by batch.

    Use it as a context: on leaving, the model is as it was. The model must be in eval mode where it has batch norm,
    since in train mode a sample's loss depends on its neighbours.

    Args:
        model: any module whose parameters belong to supported layers: Linear, Conv1d and Conv2d (strides, dilation,
            groups, any padding), BatchNorm, GroupNorm, LayerNorm and Embedding. A layer may be called several times.

    Raises:
        NotImplementedError: a parameter belongs to a layer of another kind, or to two layers; it is named.
        ValueError: batch norm in train mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._layers = _supported_layers(model)
        self._handles: list[Any] = []
        self._requires_grad: dict[nn.Parameter, bool] = {}

    def __enter__(self) -> Self:
        self._requires_grad = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        for parameter in self._requires_grad:
            parameter.requires_grad_(False)
        for layer in self._layers:
            self._handles.append(layer.register_forward_hook(self._tap))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
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
        self._calls: dict[nn.Module, list[Tensor]] = defaultdict(list)
        self._gradients: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        size = len(inputs)
        device = inputs.device
        self._total = torch.zeros(size, dtype=torch.float64, device=device)
        self._sum = torch.zeros(size, dtype=torch.float64, device=device)
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        with torch.enable_grad():
            output = self.model(inputs)
            logits = output.detach().double().requires_grad_()
            losses = loss(logits)
            if losses.shape != (size,):
                raise ValueError(f"the loss must give one scalar a sample, shape ({size},), not {tuple(losses.shape)}")
            (seed,) = torch.autograd.grad(losses.sum(), logits)
        scale = seed.flatten(1).norm(dim=1)
        unit = seed / scale.clamp_min(torch.finfo(torch.float64).tiny).view(-1, *[1] * (seed.dim() - 1))
        # The same as output.backward(unit), which would import sympy to compare two shapes.
        (output * unit.to(output.dtype)).sum().backward()
        result = GradientNorms(self._total.sqrt() * scale, self._sum * scale, output.detach())
        del self._calls, self._gradients, self._total, self._sum, self._anchor
        return result

    def _tap(self, layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        call = len(self._calls[layer])
        self._calls[layer].append(arguments[0].detach())
        tapped: Tensor = _Tap.apply(output, self._anchor, lambda gradient: self._listen(layer, call, gradient))
        return tapped

    def _listen(self, layer: nn.Module, call: int, gradient: Tensor) -> None:
        """Collect the gradient at a layer's output, and once it has come for every call of the layer, add its norms."""
        calls = self._calls[layer]
        arrived = self._gradients[layer]
        arrived.append((calls[call], gradient.detach()))
        if len(arrived) < len(calls):
            return
        with torch.no_grad():
            every = [PARTS[type(layer)](layer, x, g) for x, g in arrived]
            for name, parameter in layer.named_parameters(recurse=False):
                if self._requires_grad[parameter]:
                    squared = reduce(operator.add, (parts[name] for parts in every)).squared_norm()
                    self._total += squared
                    self._sum += squared.sqrt()
        del self._gradients[layer], self._calls[layer]
