"""Exact norms of per-sample gradients for whole batches, without per-sample gradients of the network in memory.

The gradient of a layer's parameters follows from the layer's input ``x`` and the gradient ``g`` at its output, so one
forward pass and one backward pass to the layers' outputs suffice. A linear layer applied at T positions has the
gradient ``sum_t g_t x_t^T``. Its squared norm is also the sum of the elementwise product of the Gram matrices over
positions, ``(x x^T) * (g g^T)``. The cheaper one is computed. docs/gradient-norms.md derives this for all layers.

The gradient at the logits is computed in float64 and scaled to length one before the backward pass, and the norm is
scaled back. Otherwise small gradients would lose digits or underflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from lplgrad.gradient_norms.batch import Call, Pass, Tap, slope_of, unit_length
from lplgrad.gradient_norms.layers import FALLBACK, check_batch_norms, least_axes, norms, place, split_parameters
from lplgrad.gradient_norms.layouts import ClearLayouts, ordinary_functions
from lplgrad.gradient_norms.one_by_one import norms_one_by_one, random_state


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


class _NotBatchedError(NotImplementedError):
    """Some parameters cannot be computed for a whole batch, but one by one."""

    def __init__(self, words: str, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(words)
        self.parameters = set(parameters)


class PerSampleGradientNorms:
    """Compute gradient norms of a model, batch by batch.

    Use it as a context manager, which restores the model at the end. Within the context, the weights of convolutions
    are in channels-last memory, which is faster.

    The first dimension of every layer's input and output, and of the model's output, must be the batch, in the order of
    the inputs. Another size is refused. A dimension of the same size that is not the batch goes unnoticed, unless
    parameters are computed one by one.

    Args:
        model: a module whose trainable parameters belong to supported layers and are used only in their calls: Linear,
            Conv1d and Conv2d (strides, dilation, groups, any padding), BatchNorm in eval mode, GroupNorm, LayerNorm and
            Embedding, and subclasses with the same forward pass. A layer may be called several times. Layers without
            trainable parameters may be of any kind.
        contractions: ``torch.bfloat16`` or a wider type, to which the factors and products of weight gradients are
            rounded. Both passes, all Gram matrices and the sums of squares keep their precision. The default rounds
            nothing.
        fallback: whether to take other trainable parameters too. Autograd computes their gradients for one sample after
            another, which costs one more forward and backward pass for every sample. After the pass of the batch, this
            needs memory for the feature maps of one sample, its gradients of these parameters, and two copies of the
            largest of them in float64. The other parameters are still computed for the whole batch.

    Raises:
        NotImplementedError: without a fallback: names a trainable parameter that belongs to an unsupported layer or
            forward pass or to two layers, or is computed from others (weight normalisation, pruning). In any case:
            names a trainable parameter that is complex, has a hook or no values yet, or an Embedding with ``max_norm``.
        ValueError: the model has no trainable parameters, or ``contractions`` is of another type.
    """

    def __init__(self, model: nn.Module, contractions: torch.dtype | None = None, fallback: bool = False) -> None:
        if contractions not in (None, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"contractions must be torch.bfloat16, torch.float32 or torch.float64, not {contractions}")
        self.model = model
        self.contractions = contractions
        self.fallback = fallback
        self._layers, self._apart = split_parameters(model, fallback)  # the parameters to compute one by one
        self._handles: list[Any] = []
        self._names: dict[nn.Parameter, str] = {}  # of those that required a gradient when the context was entered
        self._relaid: list[tuple[Tensor, Tensor]] = []
        self._size: int | None = None  # of the batch that is passed through the model
        self._pass: Pass | None = None

    def __enter__(self) -> Self:
        """Install the hooks.

        Raises:
            ValueError: a batch norm is in train mode or has no running statistics, so samples depend on each other.
            RuntimeError: the context is entered already.
            NotImplementedError: the model is no longer supported, or a forward hook of all modules is set.
        """
        if self._names:
            raise RuntimeError("this context is entered already")
        if nn.modules.module._global_forward_hooks:
            raise NotImplementedError("a forward hook of all modules is set (register_module_forward_hook); remove it")
        self._layers, self._apart = split_parameters(self.model, self.fallback)
        check_batch_norms(self.model)
        self._names = {one: name for name, one in self.model.named_parameters() if one.requires_grad}
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
        self._require_grad(self._names.keys())
        self._names.clear()

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
            NotImplementedError: the first dimension of the output is not the batch; with a fallback, the model draws
                random numbers; without one, the first dimension of a layer is not the batch, a layer's input has too
                few axes, or a parameter is used outside its layer's call.
        """
        if not self._names:
            raise RuntimeError("enter the context first: with PerSampleGradientNorms(model) as norms: ...")
        size = len(inputs)
        if size == 0:
            raise ValueError("an empty batch has no gradient norms")
        layouts = ClearLayouts() if inputs.device.type == "cpu" else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), layouts:
            inputs = inputs.detach()
            if inputs.dim() == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            while True:
                try:
                    return self._of_batch(inputs, loss)
                except _NotBatchedError as error:
                    if not self.fallback:
                        raise NotImplementedError(f"{error}; {FALLBACK}") from None
                    self._apart |= error.parameters

    def _of_batch(self, inputs: Tensor, loss: Callable[[Tensor], Tensor]) -> GradientNorms:
        # A GPU waits whenever the host reads a number. So ask once a batch whether a sample is doubtful, and not at
        # every layer. Doubtful samples are rare; then the batch is computed a second time.
        apart: dict[nn.Parameter, Tensor] = {}
        norms, doubtful = self._norms(inputs, loss, apart, careful=False)
        return self._norms(inputs, loss, apart, careful=True)[0] if doubtful.any() else norms

    def _norms(
        self, inputs: Tensor, loss: Callable[[Tensor], Tensor], apart: dict[nn.Parameter, Tensor], careful: bool
    ) -> tuple[GradientNorms, Tensor]:
        """Return the norms of a batch, and which samples are doubtful, shape (B,).

        Norms of parameters that are computed one by one are taken from ``apart``. If it is empty, they are put there.
        """
        self._size = len(inputs)
        self._pass = batch = Pass(self._size, inputs.device, careful)
        before = random_state(inputs.device) if self._apart else None
        try:
            self._require_grad(self._names.keys() - self._apart)
            graph = self._forward(inputs.clone())  # the model may overwrite its input
            output = graph.detach()
            if before is not None and not torch.equal(before, random_state(inputs.device)):
                raise NotImplementedError(
                    "the model draws random numbers, so samples cannot be passed one by one; call model.eval()"
                )
            unit, scale = unit_length(slope_of(output, loss))
            unit = unit.to(output.dtype)
            if linked := graph.requires_grad:
                self._backward((graph * unit).sum())
            for layer in list(batch.gradients):  # a call of these layers did not contribute to the loss
                self._add_norms(layer)
            del graph
            batch.calls.clear()
            self._size, self._pass = 1, None
            if self._apart and not apart:
                self._require_grad(self._apart)
                ordered = [one for one in self._names if one in self._apart]
                apart |= norms_one_by_one(self.model, inputs, unit, ordered)
            for parameter, norm in apart.items():
                batch.add(parameter, norm, norm.square())
            if not (linked or apart):
                raise RuntimeError(
                    "the model's output depends on no trainable layer: its forward runs without gradients "
                    "(torch.no_grad, or torch.utils.checkpoint, which needs use_reentrant=False)"
                )
            zero = torch.zeros_like(scale)
            tensors = torch.stack([batch.norms.get(one, zero) for one in self._names], dim=1) * scale.unsqueeze(1)
            names = tuple(self._names.values())
            found = GradientNorms(batch.total() * scale, batch.sum() * scale, output, tensors, names)
            # Where the loss has no gradient and all squares are zero, the norms are zero.
            return found, batch.doubtful & ((scale != 0) | (batch.squared != 0))
        finally:
            self._size = self._pass = None  # also if memory ran out
            self._require_grad(self._names.keys())

    def _forward(self, inputs: Tensor) -> Tensor:
        """Return the model's output with its graph."""
        output = self.model(inputs)
        if not isinstance(output, Tensor):
            raise TypeError(f"the model must return a tensor, not a {type(output).__name__}; wrap it in one")
        if output.is_complex():
            raise TypeError("the model's output must be real, not complex")
        self._check_batch(output, "the model's output")
        return output

    def _check_batch(self, tensor: Tensor, what: str, layer: nn.Module | None = None) -> None:
        if tensor.dim() == 0 or len(tensor) != self._size:
            words = (
                f"{what}{self._name(layer) if layer else ''}: its first dimension must be the batch of "
                f"{self._size}, but it has the shape {tuple(tensor.shape)}"
            )
            raise _NotBatchedError(words, self._wanted(layer).values()) if layer else NotImplementedError(words)

    def _backward(self, loss: Tensor) -> None:
        """Pass the gradient at each layer's output to ``_listen``. Within its layer's call, no parameter requires a
        gradient. A parameter that gets one was therefore used elsewhere."""
        assert self._pass is not None
        trained = [one for one in self._names if one.requires_grad]
        found = torch.autograd.grad(loss, [self._pass.anchor, *trained], allow_unused=True)
        elsewhere = [one for one, gradient in zip(trained, found[1:], strict=True) if gradient is not None]
        if elsewhere:
            words = f"parameter {self._names[elsewhere[0]]} is used outside its layer's call"
            raise _NotBatchedError(words, elsewhere)

    def _freeze(self, layer: nn.Module, arguments: Any) -> None:
        """Before a layer's call, disable the gradients of its parameters."""
        if self._pass is None:
            return
        with ordinary_functions():
            for parameter in layer.parameters(recurse=False):
                parameter.requires_grad_(False)

    def _require_grad(self, parameters: Set[nn.Parameter]) -> None:
        """Let some of the trainable parameters require gradients, and no others."""
        with ordinary_functions():
            for parameter in self._names:
                parameter.requires_grad_(parameter in parameters)

    def _wanted(self, layer: nn.Module) -> dict[str, nn.Parameter]:
        """Return a layer's parameters whose norms are computed for the whole batch."""
        own = layer._parameters.items()  # faster than named_parameters
        return {name: one for name, one in own if one is not None and one in self._names and one not in self._apart}

    def _tap(self, layer: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> Tensor:
        """After a layer's call, record its input and listen for the gradient at its output."""
        if self._size is None:
            return output  # the model is called directly
        if not (wanted := self._wanted(layer)):
            return output  # the layer's parameters are computed one by one
        with ordinary_functions():
            given: Tensor = (*arguments, *named.values())[0]
            self._check_batch(given, "input of ", layer)
            if given.dim() < (axes := least_axes(layer)):
                few = "" if isinstance(layer, nn.Conv1d | nn.Conv2d) else "at least "
                raise _NotBatchedError(
                    f"input of {self._name(layer)}: it must have {few}{axes} axes, the batch first, but it has the "
                    f"shape {tuple(given.shape)}",
                    wanted.values(),
                )
            self._check_batch(output, "output of ", layer)
            if self._pass is None:  # a single sample: a dimension that had the size of the batch by chance is noticed
                return output
            for parameter in wanted.values():
                parameter.requires_grad_(True)
            call = Call.of(given)
            self._pass.calls[layer].append(call)
            tapped: Tensor = Tap.apply(output, self._pass.anchor, lambda gradient: self._listen(layer, call, gradient))
        return tapped

    def _listen(self, layer: nn.Module, call: Call, gradient: Tensor) -> None:
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
        wanted = self._wanted(layer)
        with torch.no_grad(), ordinary_functions():
            found, doubtful = norms(layer, arrived, list(wanted), self.contractions, self._pass.careful)
            self._pass.doubtful |= doubtful
            for parameter, pair in zip(wanted.values(), found, strict=True):
                self._pass.add(parameter, *pair)

    def _name(self, layer: nn.Module) -> str:
        name = next(name for name, module in self.model.named_modules() if module is layer)
        return f"{place(name)} ({type(layer).__name__})"
