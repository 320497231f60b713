"""What each kind of layer makes of its input and of the gradient at its output: the gradients of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.gradient_norms.convolution import Convolution
from lplgrad.gradient_norms.parts import Direct, OuterProducts, Part, Rows

# Where a mean is so many deviations from zero, it is subtracted before the products are added up, not after.
FAR_FROM_ZERO = 30.0


def _linear(layer: nn.Linear, x: Tensor, g: Tensor) -> dict[str, Part]:
    x, g = (t.reshape(len(t), 1, -1, t.shape[-1]) for t in (x, g))
    return _with_bias(layer, OuterProducts(x, g), g, (1, 2))


def _conv(layer: nn.Conv1d | nn.Conv2d, x: Tensor, g: Tensor) -> dict[str, Part]:
    return _with_bias(layer, Convolution.of(layer, x, g), g, tuple(range(2, g.dim())))


def _with_bias(layer: Any, weight: Part, g: Tensor, positions: tuple[int, ...]) -> dict[str, Part]:
    return {"weight": weight} if layer.bias is None else {"weight": weight, "bias": Direct(g.sum(dim=positions))}


def _batch_norm(layer: nn.modules.batchnorm._BatchNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    if layer.training or layer.running_mean is None or layer.running_var is None:
        raise ValueError("batch norm in train mode: a sample's loss depends on its neighbours; call model.eval()")
    deviation = (layer.running_var + layer.eps).sqrt()
    mean = layer.running_mean
    positions = tuple(range(2, x.dim()))
    shift = g.sum(dim=positions) if positions else g
    far = bool((mean.abs() > FAR_FROM_ZERO * deviation).any())
    product = g * (x - mean.view(-1, *[1] * len(positions))) if far else g * x
    scale = product.sum(dim=positions) if positions else product
    return {"weight": Direct((scale if far else scale - mean * shift) / deviation), "bias": Direct(shift)}


def _group_norm(layer: nn.GroupNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    scaled = g * F.group_norm(x, layer.num_groups, eps=layer.eps)
    return {name: Direct(t.reshape(*t.shape[:2], -1).sum(dim=2)) for name, t in (("weight", scaled), ("bias", g))}


def _layer_norm(layer: nn.LayerNorm, x: Tensor, g: Tensor) -> dict[str, Part]:
    shape = layer.normalized_shape
    scaled = g * F.layer_norm(x, shape, eps=layer.eps)
    between = tuple(range(1, x.dim() - len(shape)))
    return {name: Direct(t.sum(dim=between) if between else t) for name, t in (("weight", scaled), ("bias", g))}


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


def supported_layers(model: nn.Module) -> list[nn.Module]:
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
