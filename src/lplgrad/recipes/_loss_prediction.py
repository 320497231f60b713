"""The loss prediction module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LossPrediction(nn.Module):
    """The loss prediction module X (Yoo and Kweon 2019; paper, section III-B) for the stages of any backbone.

    Args:
        sizes: the number of channels of each stage.
        width: of the hidden layer of each stage.
    """

    def __init__(self, sizes: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(size, width) for size in sizes)
        self.fc = nn.Linear(width * len(sizes), 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Return the predicted loss p, shape (B,), from the pooled stages, shape (B, C_s) each."""
        hidden = [F.relu(layer(stage)) for layer, stage in zip(self.stages, stages, strict=True)]
        predicted: Tensor = self.fc(torch.cat(hidden, dim=1))
        return predicted.squeeze(1)
