"""The prediction of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MeanSoftmax(nn.Module):
    """Networks whose prediction is the mean of their softmaxes."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logarithm of the mean softmax, shape (B, C). Its softmax is the mean."""
        return mean_softmax(torch.stack([member(inputs) for member in self.members], dim=1))


def mean_softmax(logits: Tensor) -> Tensor:
    """Return the logarithm of the mean of N softmaxes, shape (B, C), from logits, shape (B, N, C)."""
    return logits.log_softmax(dim=2).logsumexp(dim=1) - math.log(logits.shape[1])
