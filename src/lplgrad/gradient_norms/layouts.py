"""Memory layouts for which PyTorch's normalisations compute the right numbers on the CPU.

On the CPU the backward pass of a batch norm has a fast way for an input and a gradient that are both contiguous, or
both in channels-last memory. It tells the two apart by strides. That fails where an axis has size one, since its
stride may be anything; a batch of one sample is such an axis. Then one layout is taken for the other, and the gradients
are nonsense (PyTorch 2.14). An instance norm is computed as a batch norm of one sample.

Here such tensors get the strides that PyTorch expects. No others are touched.

A group norm of channels-last tensors takes the variance as the mean square less the squared mean. In float32 this
loses digits where a group's mean is large against its deviation: at a ratio of 100 the output is wrong by a percent
(PyTorch 2.14). PyTorch's kernel for contiguous tensors is accurate, so group norms get contiguous tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# Within it ``ClearLayouts`` costs nothing.
ordinary_functions = torch._C.DisableTorchFunction

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_clear(t: Tensor) -> bool:
    """Whether a tensor's strides tell how it lies in memory."""
    layout = CHANNELS_LAST.get(t.dim())
    if layout is None or t.is_contiguous() or not t.is_contiguous(memory_format=layout):
        return True
    return t.stride() == torch.empty(t.shape, device="meta", memory_format=layout).stride()


def clear(t: Tensor) -> Tensor:
    """The same numbers in the same order in memory, with strides that tell it."""
    return t if is_clear(t) else t.clone(memory_format=CHANNELS_LAST[t.dim()])


def contiguous(t: Tensor) -> Tensor:
    """The same numbers, contiguous also by the strides of axes of size one, which PyTorch picks its kernel by."""
    expected = torch.empty(t.shape, device="meta").stride()
    return t if t.stride() == expected else t.clone(memory_format=torch.contiguous_format)


class _GradientLaidOut(torch.autograd.Function):
    """The identity; a function lays out the gradient that passes back."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, lay_out: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.lay_out = lay_out
        # The same memory, but no view, which an activation could not overwrite in place.
        return output.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.lay_out(gradient), None


# What the input and the gradient need. An instance norm lays out its input contiguously itself.
NORMS: dict[Callable[..., Any], tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    F.batch_norm: (clear, clear),
    torch.batch_norm: (clear, clear),
    F.instance_norm: (clear, Tensor.contiguous),
    torch.instance_norm: (clear, Tensor.contiguous),
    F.group_norm: (contiguous, contiguous),
    torch.group_norm: (contiguous, contiguous),
}


class ClearLayouts(TorchFunctionMode):
    """Within it batch, instance and group norms, of modules or called as functions, compute the right numbers."""

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
