"""The base class of all networks that a backbone builds, and their first weights."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Outputs(NamedTuple):
    """What a network computes for a batch."""

    logits: Tensor  # shape (B, C); of a network without a head the features
    features: Tensor  # penultimate, shape (B, D)
    stages: list[Tensor]  # pooled, from shallow to deep, shape (B, C_s) each; empty if they are not wanted


class Network(nn.Module):
    """A backbone and, unless it has no classes, the layer that makes logits of its features.

    Attributes:
        feature_size: D, the length of the penultimate features.
        stage_sizes: C_s of each stage; empty if the backbone does not offer stages.
        frozen: names of the weights and buffers that training does not change and checkpoints do not contain. A network
            keeps their modules in eval mode.
    """

    feature_size: int
    stage_sizes: Sequence[int] = ()
    frozen: frozenset[str] = frozenset()

    @abstractmethod
    def outputs(self, inputs: Tensor, stages: bool = False) -> Outputs:
        """Return all outputs for a batch of inputs, shape (B, ...); the stages only if they are wanted."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, shape (B, C)."""
        return self.outputs(inputs).logits


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Give a network on the meta device its first weights, on the CPU, from ``generator`` alone.

    They have PyTorch's default distributions. Layers of other kinds than those below initialise themselves
    (``reset_parameters``) from PyTorch's own generator, which is seeded, and restored afterwards.

    Raises:
        NotImplementedError: the network shares a parameter, has a buffer whose value is not known, or parameters of a
            layer that cannot initialise itself. Then its backbone needs an ``initialize`` of its own.
    """
    shared = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    if len(shared) > len(list(network.parameters())):
        raise NotImplementedError("a parameter is shared by two layers; its backbone needs an initialize of its own")
    for name, layer in network.named_modules():
        own = list(layer.named_parameters(recurse=False))
        # Not network.to_empty(): on a meta tensor it imports sympy, half a second for every job.
        for key, parameter in own:
            setattr(layer, key, nn.Parameter(torch.empty(parameter.shape), requires_grad=parameter.requires_grad))
        buffers = list(layer.named_buffers(recurse=False))
        for key, buffer in buffers:
            setattr(layer, key, torch.empty(buffer.shape, dtype=buffer.dtype))
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
            layer.reset_parameters()  # ones and zeros
        elif buffers:
            raise NotImplementedError(f"no value for buffer {name}.{buffers[0][0]} of a {type(layer).__name__}")
        elif own:
            reset = getattr(layer, "reset_parameters", None)
            if reset is None:
                raise NotImplementedError(f"no first weights for {name}.{own[0][0]} of a {type(layer).__name__}")
            with torch.random.fork_rng([]):
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
                reset()
