"""Memory layouts with which PyTorch's normalisations compute correct numbers on the CPU.

The backward pass of a batch norm has a fast kernel for an input and a gradient that are both contiguous or both
channels-last, which it decides by strides. An axis of size one, such as a batch of one sample, may have any stride:
PyTorch 2.14 then confuses the layouts and returns wrong gradients. Instance norms are affected too, because they are
computed as a batch norm of one sample. Such tensors get the strides that PyTorch expects.

The group norm of channels-last tensors loses digits in float32 if a group's mean is large compared with its deviation
(PyTorch 2.14: a percent of the output at a ratio of 100). The kernel for contiguous tensors is used instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Disables ``ClearLayouts``, to save its cost.
ordinary_functions = torch._C.DisableTorchFunction

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_clear(t: Tensor) -> bool:
    """Return whether a tensor's strides determine its memory layout."""
    layout = CHANNELS_LAST.get(t.dim())
    if layout is None or t.is_contiguous() or not t.is_contiguous(memory_format=layout):
        return True
    return t.stride() == torch.empty(t.shape, device="meta", memory_format=layout).stride()


def clear(t: Tensor) -> Tensor:
    """Return the same numbers in the same order in memory, with strides that determine the layout."""
    return t if is_clear(t) else t.clone(memory_format=CHANNELS_LAST[t.dim()])


def contiguous(t: Tensor) -> Tensor:
    """Return the same numbers, contiguous also by the strides of axes of size one, by which PyTorch picks a kernel."""
    expected = torch.empty(t.shape, device="meta").stride()
    return t if t.stride() == expected else t.clone(memory_format=torch.contiguous_format)


class _GradientLaidOut(torch.autograd.Function):
    """The identity. A function changes the layout of the gradient in the backward pass."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, lay_out: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.lay_out = lay_out
        # Share the memory, but not as a view, which an activation could not overwrite in place.
        return output.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.lay_out(gradient), None


# The layouts for the input and the gradient. An instance norm makes its input contiguous itself.
NORMS: dict[Callable[..., Any], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    F.batch_norm: (clear, clear),
    torch.batch_norm: (clear, clear),
    F.instance_norm: (clear, Tensor.contiguous),
    torch.instance_norm: (clear, Tensor.contiguous),
    F.group_norm: (contiguous, contiguous),
    torch.group_norm: (contiguous, contiguous),
}


class ClearLayouts(TorchFunctionMode):
    """A context in which batch, instance and group norms, as modules or functions, compute correct numbers."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        named = named or {}
        lay_out = NORMS.get(function)
        if lay_out is None:
            return function(*arguments, **named)
        of_input, of_gradient = lay_out
        if arguments:
            arguments = (of_input(arguments[0]), *arguments[1:])
        else:
            named = {**named, "input": of_input(named["input"])}
        return _GradientLaidOut.apply(function(*arguments, **named), of_gradient)
