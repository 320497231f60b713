"""Norms of per-sample gradients by autograd, for one sample after another, of parameters of any kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def norms_one_by_one(
    model: nn.Module, inputs: Tensor, slopes: Tensor, parameters: Sequence[nn.Parameter]
) -> dict[nn.Parameter, Tensor]:
    """Return the norms of each sample's gradient, float64, shape (B,) each. A parameter that no sample's loss depends
    on is left out.

    Args:
        inputs: of the model, shape (B, ...).
        slopes: the gradients at the model's output, of its shape and type.
        parameters: the only ones that require a gradient. The backward pass ends at the lowest of them.

    Raises:
        NotImplementedError: the output for a single sample has another shape than in the batch.
    """
    found: dict[nn.Parameter, Tensor] = {}
    for position in range(len(inputs)):
        one = slice(position, position + 1)
        for parameter, norm in _norms_of_one(model, inputs[one], slopes[one], parameters).items():
            if parameter not in found:
                found[parameter] = norm.new_zeros(len(inputs))
            found[parameter][position] = norm
    return found


def _norms_of_one(
    model: nn.Module, single: Tensor, slope: Tensor, parameters: Sequence[nn.Parameter]
) -> dict[nn.Parameter, Tensor]:
    """Return the norms of a sample's gradient. The memory of the gradients is free again at the end."""
    output = model(single.clone())  # the model may overwrite its input
    if output.shape != slope.shape:
        raise NotImplementedError(
            f"the model's output for a single sample has the shape {tuple(output.shape)}, but it should have the shape "
            f"{tuple(slope.shape)}, as in a batch"
        )
    if not output.requires_grad:
        return {}
    gradients = torch.autograd.grad((output * slope).sum(), parameters, allow_unused=True)
    return {one: _norm(g) for one, g in zip(parameters, gradients, strict=True) if g is not None}


def _norm(gradient: Tensor) -> Tensor:
    """Return the norm of numbers of any size, float64."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    values = values.double().flatten()
    if values.numel() == 0:
        return values.sum()
    # Divide by the largest entry first, because the square of 1e-200 underflows.
    largest = values.abs().amax()
    norm: Tensor = (values / largest.where(largest > 0, 1.0)).norm() * largest
    return norm


def random_state(device: torch.device) -> Tensor:
    """Return the state of the generators that a model on a device draws from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
