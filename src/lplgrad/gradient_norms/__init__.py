"""Exact norms of per-sample gradients for whole batches, without per-sample gradients of the network in memory.

The gradient of a layer's parameters follows from the layer's input ``x`` and the gradient ``g`` at its output, so one
forward pass and one backward pass to the layers' outputs suffice. A linear layer applied at T positions has the
gradient ``sum_t g_t x_t^T``. Its squared norm is also the sum of the elementwise product of the Gram matrices over
positions, ``(x x^T) * (g g^T)``. The cheaper one is computed. docs/gradient-norms.md derives this for all layers.

The gradient at the logits is computed in float64 and scaled to length one before the backward pass, and the norm is
scaled back. Otherwise small gradients would lose digits or underflow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lplgrad.gradient_norms.layers import check_batch_norms, least_axes, norms, place, supported_layers
from lplgrad.gradient_norms.layouts import ClearLayouts, ordinary_functions


@dataclass(frozen=True)
class GradientNorms:
    """Norms of each sample's gradient, float64, in units of the loss per unit of a parameter.

    The P parameter tensors are all those that are trainable, in the order of ``model.named_parameters()``. A tensor
    that a sample's loss does not depend on has the norm zero.
    """

    total: Tensor  # the L2 (Frobenius) norm over all parameters together (paper, eq. 8), shape (B,)
    sum: Tensor  # the sum of the L2 norms of the parameter tensors, shape (B,)
    output: Tensor  # the model's output for the batch, without a graph
    tensors: Tensor  # the L2 norm of every parameter tensor, shape (B, P)
    names: tuple[str, ...]  # of the parameter tensors

    @property
    def squares(self) -> Tensor:
        """The squared norm of every parameter tensor, shape (B, P).

        It is zero or infinite if it leaves the range of float64: for norms below 1e-162 or above 1e154. The norms
        themselves and ``shares`` stay right there.
        """
        return self.tensors.square()

    @property
    def shares(self) -> Tensor:
        """The share of every parameter tensor in the squared norm over all parameters, shape (B, P).

        A sample's shares add up to one, or are all zero if its gradient is zero.
        """
        return (self.tensors / self.total.where(self.total != 0, 1.0).unsqueeze(1)).square()

    def shares_of_layers(self) -> dict[str, Tensor]:
        """Return the share of every layer in the squared norm over all parameters, by its name, shape (B,) each."""
        found: dict[str, Tensor] = {}
        for name, share in zip(self.names, self.shares.unbind(dim=1), strict=True):
            layer = name.rpartition(".")[0]
            found[layer] = found[layer] + share if layer in found else share
        return found

    @classmethod
    def joined(cls, parts: Sequence[GradientNorms]) -> GradientNorms:
        """Return the norms of several batches of one model, at least one, as those of a single batch."""
        total, summed, output, tensors = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("total", "sum", "output", "tensors")
        )
        return cls(total, summed, output, tensors, parts[0].names)


class _Tap(torch.autograd.Function):
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
class _Call:
    """A call of a layer: its input, and the version of the input, because in-place operations may change it later."""

    input: Tensor
    version: int | None

    @classmethod
    def of(cls, given: Tensor) -> _Call:
        return cls(given.detach(), None if given.is_inference() else given._version)

    @property
    def unchanged(self) -> bool:
        return self.version is None or self.input._version == self.version


class _Pass:
    """The state of a batch: calls and gradients of each layer, and norms of parameter tensors, float64, shape (B,).

    A careful pass computes doubtful samples again, layer by layer. Another only notes them in ``doubtful``.
    """

    def __init__(self, size: int, device: torch.device, careful: bool) -> None:
        self.size = size
        self.careful = careful
        self.calls: dict[nn.Module, list[_Call]] = defaultdict(list)
        self.gradients: dict[nn.Module, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        self.norms: dict[nn.Parameter, Tensor] = {}
        self.squared = torch.zeros(size, dtype=torch.float64, device=device)
        self.doubtful = torch.zeros(size, dtype=torch.bool, device=device)
        self.anchor = torch.zeros((), device=device, requires_grad=True)

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


def _unit_length(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit gradients and their norms, shape (B,). A zero gradient stays zero."""
    flat = slopes.reshape(len(slopes), -1)
    # Divide by the largest entry first, because the square of 1e-200 underflows.
    largest = flat.abs().amax(dim=1, keepdim=True)
    flat = flat / largest.where(largest > 0, 1.0)
    length = flat.norm(dim=1, keepdim=True)
    flat = flat / length.where(length > 0, 1.0)
    return flat.view_as(slopes), (largest * length).squeeze(1)


def _slope(output: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient of each sample's loss with respect to the model's output, float64."""
    logits = output.double().requires_grad_()
    losses = loss(logits)
    if losses.shape != (len(output),):
        raise ValueError(f"the loss must give one scalar a sample, ({len(output)},), not {tuple(losses.shape)}")
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    return slope


class PerSampleGradientNorms:
    """Compute gradient norms of a model, batch by batch.

    Use it as a context manager, which restores the model at the end. Within the context, the weights of convolutions
    are in channels-last memory, which is faster.

    The first dimension of every layer's input and output, and of the model's output, must be the batch, in the order of
    the inputs. Another size is refused, but a dimension of the same size that is not the batch goes unnoticed.

    Args:
        model: a module whose trainable parameters belong to supported layers and are used only in their calls: Linear,
            Conv1d and Conv2d (strides, dilation, groups, any padding), BatchNorm in eval mode, GroupNorm, LayerNorm and
            Embedding. A layer may be called several times. Layers without trainable parameters may be of any kind.
        contractions: ``torch.bfloat16`` or a wider type, to which the factors and products of weight gradients are
            rounded. Both passes, all Gram matrices and the sums of squares keep their precision. The default rounds
            nothing.

    Raises:
        NotImplementedError: names a trainable parameter that belongs to an unsupported layer or forward pass or to two
            layers, is computed from others (weight normalisation, pruning), is complex, or has a hook.
        ValueError: the model has no trainable parameters, or ``contractions`` is of another type.
    """

    def __init__(self, model: nn.Module, contractions: torch.dtype | None = None) -> None:
        if contractions not in (None, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"contractions must be torch.bfloat16, torch.float32 or torch.float64, not {contractions}")
        self.model = model
        self.contractions = contractions
        self._layers = supported_layers(model)
        self._handles: list[Any] = []
        self._requires_grad: dict[nn.Parameter, bool] = {}
        self._relaid: list[tuple[Tensor, Tensor]] = []
        self._pass: _Pass | None = None

    def __enter__(self) -> Self:
        """Install the hooks.

        Raises:
            ValueError: a batch norm is in train mode or has no running statistics, so samples depend on each other.
            RuntimeError: the context is entered already.
            NotImplementedError: the model is no longer supported, or a forward hook of all modules is set.
        """
        if self._handles:
            raise RuntimeError("this context is entered already")
        if nn.modules.module._global_forward_hooks:
            raise NotImplementedError("a forward hook of all modules is set (register_module_forward_hook); remove it")
        self._layers = supported_layers(self.model)
        check_batch_norms(self.model)
        self._requires_grad = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        for layer in self._layers:
            # This must be the first hook after the layer, before other hooks change the output.
            self._handles.append(layer.register_forward_hook(self._tap, prepend=True, with_kwargs=True))
            self._handles.append(layer.register_forward_pre_hook(self._freeze))
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
        self._thaw(self._requires_grad)

    def __call__(self, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> GradientNorms:
        """Return the gradient norms of a batch.

        Args:
            inputs: the model's input, shape (B, ...).
            loss: maps the model's output, in float64, to one scalar per sample, shape (B,).

        Returns:
            Norms over the parameters that required a gradient when the context was entered, in units of the loss per
            unit of a parameter.

        Raises:
            RuntimeError: the context is not entered, the output depends on no layer, or a layer's input was
                overwritten in place after its call.
            ValueError: the batch is empty, or the loss is not one scalar per sample.
            TypeError: the model does not return a real tensor.
            NotImplementedError: the first dimension of a layer or of the output is not the batch, a layer's input has
                too few axes, or a parameter is used outside its layer's call.
        """
        if not self._handles:
            raise RuntimeError("enter the context first: with PerSampleGradientNorms(model) as norms: ...")
        size = len(inputs)
        if size == 0:
            raise ValueError("an empty batch has no gradient norms")
        layouts = ClearLayouts() if inputs.device.type == "cpu" else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), layouts:
            inputs = inputs.detach()
            if inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            # A GPU waits whenever the host reads a number. So ask once a batch whether a sample is doubtful, and not at
            # every layer. Doubtful samples are rare; then the batch is computed a second time. The model may overwrite
            # its input, so the first pass gets a copy.
            norms, doubtful = self._norms(inputs.clone(), loss, careful=False)
            return self._norms(inputs, loss, careful=True)[0] if doubtful.any() else norms

    def _norms(self, inputs: Tensor, loss: Callable[[Tensor], Tensor], careful: bool) -> tuple[GradientNorms, Tensor]:
        """Return the norms of a batch, and which samples are doubtful, shape (B,)."""
        self._pass = _Pass(len(inputs), inputs.device, careful)
        try:
            output = self._forward(inputs)
            unit, scale = _unit_length(_slope(output.detach(), loss))
            self._backward((output * unit.to(output.dtype)).sum())
            for layer in list(self._pass.gradients):  # a call of these layers did not contribute to the loss
                self._add_norms(layer)
            names = {name: one for name, one in self.model.named_parameters() if self._requires_grad.get(one)}
            zero = torch.zeros_like(scale)
            tensors = torch.stack([self._pass.norms.get(one, zero) * scale for one in names.values()], dim=1)
            total, summed = self._pass.total() * scale, self._pass.sum() * scale
            norms = GradientNorms(total, summed, output.detach(), tensors, tuple(names))
            # Where the loss has no gradient and all squares are zero, the norms are zero.
            return norms, self._pass.doubtful & ((scale != 0) | (self._pass.squared != 0))
        finally:
            self._pass = None  # free all feature maps, also if memory ran out
            self._thaw(self._requires_grad)

    def _forward(self, inputs: Tensor) -> Tensor:
        """Return the model's output with its graph."""
        output = self.model(inputs)
        if not isinstance(output, Tensor):
            raise TypeError(f"the model must return a tensor, not a {type(output).__name__}; wrap it in one")
        if output.is_complex():
            raise TypeError("the model's output must be real, not complex")
        self._check_batch(output, "the model's output")
        if not output.requires_grad:
            raise RuntimeError(
                "the model's output depends on no trainable layer: its forward runs without gradients (torch.no_grad, "
                "or torch.utils.checkpoint, which needs use_reentrant=False)"
            )
        return output

    def _check_batch(self, tensor: Tensor, what: str, layer: nn.Module | None = None) -> None:
        assert self._pass is not None
        if tensor.dim() == 0 or len(tensor) != self._pass.size:
            raise NotImplementedError(
                f"{what}{self._name(layer) if layer else ''}: its first dimension must be the batch of "
                f"{self._pass.size}, but it has the shape {tuple(tensor.shape)}"
            )

    def _backward(self, loss: Tensor) -> None:
        """Pass the gradient at each layer's output to ``_listen``. Within its layer's call, no parameter requires a
        gradient. A parameter that gets one was therefore used elsewhere."""
        assert self._pass is not None
        trained = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        found = torch.autograd.grad(loss, [self._pass.anchor, *trained.values()], allow_unused=True)
        elsewhere = [name for name, gradient in zip(trained, found[1:], strict=True) if gradient is not None]
        if elsewhere:
            raise NotImplementedError(f"parameter {elsewhere[0]} is used outside its layer's call")

    def _freeze(self, layer: nn.Module, arguments: Any) -> None:
        """Before a layer's call, disable the gradients of its parameters."""
        if self._pass is None:
            return
        with ordinary_functions():
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)

    def _thaw(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            parameter.requires_grad_(self._requires_grad[parameter])

    def _tap(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        """After a layer's call, record its input and listen for the gradient at its output."""
        if self._pass is None:
            return output  # the model is called directly
        with ordinary_functions():
            self._thaw(layer.parameters(recurse=False))
            given: Tensor = (*arguments, *named.values())[0]
            self._check_batch(given, "input of ", layer)
            if given.dim() < (axes := least_axes(layer)):
                few = "" if isinstance(layer, nn.Conv1d | nn.Conv2d) else "at least "
                raise NotImplementedError(
                    f"input of {self._name(layer)}: it must have {few}{axes} axes, the batch first, but it has the "
                    f"shape {tuple(given.shape)}"
                )
            self._check_batch(output, "output of ", layer)
            call = _Call.of(given)
            self._pass.calls[layer].append(call)
            tapped: Tensor = _Tap.apply(output, self._pass.anchor, lambda gradient: self._listen(layer, call, gradient))
        return tapped

    def _listen(self, layer: nn.Module, call: _Call, gradient: Tensor) -> None:
        """Collect the gradient at a layer's output. Add the layer's norms after the gradient of its last call."""
        assert self._pass is not None
        if not call.unchanged:
            raise RuntimeError(f"the input of {self._name(layer)} was overwritten in place after its call")
        arrived = self._pass.gradients[layer]
        arrived.append((call.input, gradient.detach()))
        if len(arrived) == len(self._pass.calls[layer]):
            self._add_norms(layer)

    def _add_norms(self, layer: nn.Module) -> None:
        assert self._pass is not None
        arrived = self._pass.gradients.pop(layer)
        self._pass.calls.pop(layer)
        wanted = {name: one for name, one in layer.named_parameters(recurse=False) if self._requires_grad[one]}
        if not wanted:
            return
        with torch.no_grad(), ordinary_functions():
            found, doubtful = norms(layer, arrived, list(wanted), self.contractions, self._pass.careful)
            self._pass.doubtful |= doubtful
            for parameter, (norm, squared) in zip(wanted.values(), found, strict=True):
                self._pass.norms[parameter] = norm
                self._pass.squared += squared

    def _name(self, layer: nn.Module) -> str:
        name = next(name for name, module in self.model.named_modules() if module is layer)
        return f"{place(name)} ({type(layer).__name__})"
