"""Compute the gradients of each kind of layer's parameters from its input and the gradient at its output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy

from lplgrad.gradient_norms.convolution import Convolution
from lplgrad.gradient_norms.layouts import contiguous, is_clear
from lplgrad.gradient_norms.parts import Direct, OuterProducts, Part, Rows, out_of_range

# From this size of a sample's feature map, two sums in one pass per sample are faster than two sums over the batch.
LARGE_MAP = 2**14


def _linear(layer: nn.Linear, x: Tensor, g: Tensor) -> dict[str, Part]:
    x, g = (t.reshape(len(t), 1, -1, t.shape[-1]) for t in (x, g))
    return _with_bias(layer, OuterProducts(x, g), g, (1, 2))


def _conv(layer: nn.Conv1d | nn.Conv2d, x: Tensor, g: Tensor) -> dict[str, Part]:
    return _with_bias(layer, Convolution.of(layer, x, g), g, tuple(range(2, g.dim())))


def _with_bias(layer: Any, weight: Part, g: Tensor, positions: tuple[int, ...]) -> dict[str, Part]:
    return {"weight": weight} if layer.bias is None else {"weight": weight, "bias": Direct(g.sum(dim=positions))}


def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    assert layer.running_mean is not None
    assert layer.running_var is not None  # see check_batch_norms
    clear = x.dtype == layer.weight.dtype and all(is_clear(t[:1]) for t in (x, g))
    if x.device.type == "cpu" and x[0].numel() >= LARGE_MAP and clear:
        sums = [_batch_norm_backward(layer, *pair) for pair in zip(torch.split(x, 1), torch.split(g, 1), strict=True)]
        return {"weight": Direct(torch.stack([w for w, _ in sums])), "bias": Direct(torch.stack([b for _, b in sums]))}
    shape = (-1, *[1] * (x.dim() - 2))
    # Subtract the mean first: sum(g x) - mean sum(g) would cancel if the mean is far from zero.
    scaled = g * (x - layer.running_mean.view(shape))
    return {
        "weight": Direct(_over_positions(scaled) / (layer.running_var + layer.eps).sqrt()),
        "bias": Direct(_over_positions(g)),
    }


def _batch_norm_backward(layer: nn.modules.batchnorm._BatchNorm, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of scale and shift over a batch, shape (C,) each."""
    _, weight, bias = torch.ops.aten.native_batch_norm_backward(
        g, x, layer.weight, layer.running_mean, layer.running_var, None, None, False, layer.eps, (False, True, True)
    )
    return weight, bias


def _over_positions(t: Tensor) -> Tensor:
    return t.sum(dim=tuple(range(2, t.dim()))) if t.dim() > 2 else t


def _group_norm(layer: nn.GroupNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    scaled = g * F.group_norm(contiguous(x), layer.num_groups, eps=layer.eps)
    return {"weight": Direct(_over_positions(scaled)), "bias": Direct(_over_positions(g))}


def _layer_norm(layer: nn.LayerNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    shape = layer.normalized_shape
    scaled = g * F.layer_norm(x, shape, eps=layer.eps)
    between = tuple(range(1, x.dim() - len(shape)))
    return {name: Direct(t.sum(dim=between) if between else t) for name, t in (("weight", scaled), ("bias", g))}


def _embedding(layer: nn.Embedding, x: Tensor, g: Tensor) -> dict[str, Part]:
    rows = x.reshape(len(x), -1)
    if layer.padding_idx is not None:
        rows = rows.masked_fill(rows == layer.padding_idx, -1)
    return {"weight": Rows(rows, g.reshape(*rows.shape, -1))}


# Layers whose weight gradient is linear in the input.
LINEAR_IN_INPUT = (nn.Linear, nn.Conv1d, nn.Conv2d)

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


def norms(
    layer: nn.Module,
    calls: Sequence[tuple[Tensor, Tensor]],
    names: Sequence[str],
    contractions: torch.dtype | None = None,
    careful: bool = True,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the norm and the squared norm of each sample's gradient, for some of a layer's parameters.

    A sample whose squares cancel or leave the range of the layer's precision is doubtful. If ``careful``, it is
    computed again in float64, scaled to a largest entry of one. Its square may still overflow.

    Args:
        layer: of a kind in ``PARTS``, or of a subclass.
        calls: the input of each call and the gradient at its output, shape (B, ...) each.
        names: of the parameters. Each gets two tensors, float64, shape (B,).
        contractions: see ``PerSampleGradientNorms``.
        careful: whether to compute doubtful samples again. A GPU waits for the question whether there are any.

    Returns:
        The pairs of tensors, and which samples are doubtful, shape (B,).
    """
    calls = [(_wide(x), _wide(g)) for x, g in calls]
    squared, lost = zip(*_squared_norms(layer, calls, names, contractions), strict=True)
    found = [(one.sqrt(), one) for one in squared]
    doubtful = out_of_range(torch.stack(squared), calls[0][1].dtype).any(dim=0)
    for one in lost:
        doubtful = doubtful if one is None else doubtful | one
    if not careful or not doubtful.any():
        return found, doubtful
    nothing = doubtful & (_largest([g for _, g in calls]) == 0)  # a zero gradient is common and needs no sum
    for norm, square in found:
        norm[nothing] = square[nothing] = 0
    again = doubtful & ~nothing
    if again.any():
        exact = _exact_norms(layer, [(x[again], g[again]) for x, g in calls], names)
        for (norm, square), one in zip(found, exact, strict=True):
            norm[again], square[again] = one, one.square()
    return found, doubtful


def _exact_norms(layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> list[Tensor]:
    """Return the norms, computed in float64 for numbers of any size."""
    scale = _scale([g for _, g in calls])
    scales = dict.fromkeys(names, scale)
    calls = [(x.double() if x.is_floating_point() else x, _divided(g, scale)) for x, g in calls]
    if isinstance(layer, LINEAR_IN_INPUT):
        of_inputs = _scale([x for x, _ in calls])
        calls = [(_divided(x, of_inputs), g) for x, g in calls]
        scales["weight"] = scale * of_inputs
    squared = (found for found, _ in _squared_norms(layer, calls, names, None))
    return [one.sqrt() * scales[name] for name, one in zip(names, squared, strict=True)]


def _squared_norms(
    layer: nn.Module, calls: Sequence[tuple[Tensor, Tensor]], names: Sequence[str], contractions: torch.dtype | None
) -> list[tuple[Tensor, Tensor | None]]:
    every = [PARTS[kind_of(layer)](layer, x, g) for x, g in calls]
    found = []
    for name in names:
        parts = [parts[name] for parts in every]
        part = parts[0] if len(parts) == 1 else type(parts[0]).joined(parts)
        found.append(part.squared_norm(contractions))
    return found


def _wide(t: Tensor) -> Tensor:
    """Convert half precision to float32, because its range and digits do not suffice for sums."""
    return t.float() if t.is_floating_point() and t.itemsize < 4 else t


def _largest(tensors: Sequence[Tensor]) -> Tensor:
    """Return the largest absolute entry of each sample, float64, shape (B,)."""
    flat = [F.pad(t.flatten(1).abs(), (0, 1)) for t in tensors]  # a tensor may have no entries
    return torch.stack([t.amax(dim=1) for t in flat]).amax(dim=0).double()


def _scale(tensors: Sequence[Tensor]) -> Tensor:
    """Return the divisors that make the largest entry of each sample one, shape (B,)."""
    largest = _largest(tensors)
    return largest.where(largest > 0, 1.0)


def _divided(t: Tensor, scale: Tensor) -> Tensor:
    return t.double() / scale.view(-1, *[1] * (t.dim() - 1))


def place(name: str, kind: str = "layer") -> str:
    """Return a description of a module for messages, from its name in the model."""
    return f"{kind} {name!r}" if name else "the model itself"


def least_axes(layer: nn.Module) -> int:
    """Return the least number of axes of a layer's input, including the batch."""
    if isinstance(layer, nn.LayerNorm):
        return 1 + len(layer.normalized_shape)
    return {nn.Conv2d: 4, nn.Conv1d: 3, nn.Embedding: 1}.get(kind_of(layer), 2)


def kind_of(layer: nn.Module) -> type[nn.Module]:
    """Return the first of a layer's class and its base classes that is in ``PARTS``; if none is, its class."""
    return next((kind for kind in type(layer).__mro__ if kind in PARTS), type(layer))


FALLBACK = (
    "PerSampleGradientNorms(model, fallback=True) computes it, with one more forward and backward pass for every sample"
)


def split_parameters(model: nn.Module, fallback: bool) -> tuple[list[nn.Module], set[nn.Parameter]]:
    """Return the layers with trainable parameters that are computed for a whole batch, and the parameters that are not.

    Raises:
        NotImplementedError: without a fallback: a layer is unsupported or has a replaced forward pass, or a parameter
            is shared or computed from others. In any case: a parameter is complex, has a hook, or has no values yet; or
            an Embedding renormalises its rows.
        ValueError: the model has no parameters, or all are frozen.
    """
    owners: dict[nn.Parameter, str] = {}
    apart: set[nn.Parameter] = set()
    for name, layer in model.named_modules():
        parameters = {
            f"{name}.{key}" if name else key: one
            for key, one in layer.named_parameters(recurse=False, remove_duplicate=False)
            if one.requires_grad
        }
        of_layer = _unsupported(layer, name, list(parameters)) if parameters else None
        for path, parameter in parameters.items():
            if is_lazy(parameter):
                raise NotImplementedError(f"parameter {path} has no values yet; call the model once")
            reason = of_layer
            if reason is None and parameter in owners:
                reason = f"parameter {path} is shared with {owners[parameter]}"
            if reason is not None:
                if not fallback:
                    raise NotImplementedError(f"{reason}; {FALLBACK}")
                apart.add(parameter)
            if parameter.is_complex():
                raise NotImplementedError(f"parameter {path} is complex; only real parameters are supported")
            if parameter._backward_hooks:
                raise NotImplementedError(
                    f"parameter {path} has a hook (register_hook), which could change its gradient; remove it"
                )
            owners[parameter] = path
        if parameters and isinstance(layer, nn.Embedding | nn.EmbeddingBag) and layer.max_norm is not None:
            kind = type(layer).__name__
            raise NotImplementedError(f"{place(name)} is an {kind} with max_norm: its forward pass changes its weights")
    if not owners:
        frozen = any(True for _ in model.parameters())
        raise ValueError(
            "every parameter of the model is frozen: set requires_grad of those whose gradients are to count"
            if frozen
            else "the model has no parameters"
        )
    batched = owners.keys() - apart
    return [layer for layer in model.modules() if any(one in batched for one in layer.parameters(recurse=False))], apart


# The functions that a layer's call runs, and where PyTorch defines them.
CALLED = ("__call__", "_call_impl", "_wrapped_call_impl", "_compiled_call_impl", "forward", "_conv_forward")
PYTORCH = nn.__file__.rpartition("__init__")[0] + "modules"


def _unsupported(layer: nn.Module, name: str, paths: list[str]) -> str | None:
    """Return why the gradients of a layer's trainable parameters are not known, or None. A subclass may add anything
    that does not change the forward pass."""
    kind, own = kind_of(layer), type(layer).__name__
    if kind not in PARTS or any(hasattr(type(layer), key) for key in ("weight", "bias")):  # such a weight is computed
        known = ", ".join(kind.__name__ for kind in PARTS)
        return (
            f"{place(name)} is a {own} with trainable parameters of its own ({paths[0].rpartition('.')[2]}); "
            f"supported: {known}; or freeze its parameters; frozen parameters do not count"
        )
    if isinstance(layer, nn.Embedding) and layer.scale_grad_by_freq:
        return f"{place(name)} is an Embedding with scale_grad_by_freq"
    for called in CALLED:
        function = getattr(type(layer), called, None)
        code = getattr(function, "__code__", None)
        replaced = function is not getattr(kind, called, None) or vars(layer).get(called) is not None
        if replaced or (function is not None and (code is None or not code.co_filename.startswith(PYTORCH))):
            return f"{place(name)} ({own}): its {called} is not PyTorch's, so its gradients are not known"
    computed = [path for path in paths if path.rpartition(".")[2] not in ("weight", "bias")]
    return f"parameter {computed[0]}: weights that are computed from others" if computed else None


def check_batch_norms(model: nn.Module) -> None:
    """Raise ValueError for a batch norm in train mode or without running statistics: samples depend on each other."""
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.modules.batchnorm._BatchNorm):
            continue
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError(
                f"{place(name, 'batch norm')} has no running statistics: a sample's loss depends on its neighbours"
            )
        if layer.training:
            raise ValueError(
                f"{place(name, 'batch norm')} is in train mode: a sample's loss depends on its neighbours; "
                "call model.eval()"
            )
