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
    """Give a network its first weights, on the CPU, from ``generator`` alone: PyTorch's default distributions.

    Raises:
        NotImplementedError: the network has parameters in a layer of an unknown kind.
    """
    for layer in network.modules():
        # Not network.to_empty(): on a meta tensor it imports sympy, half a second for every job.
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in list(layer.named_buffers(recurse=False)):
            setattr(layer, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                fan_in, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
                bound = 1 / math.sqrt(fan_in)
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
            layer.reset_running_stats()
        elif isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif next(layer.parameters(recurse=False), None) is not None:
            raise NotImplementedError(f"no initialisation for {type(layer).__name__}")
