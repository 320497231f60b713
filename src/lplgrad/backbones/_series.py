"""Residual networks for series."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.backbones._network import Network, Outputs

KERNELS = (7, 5, 3)  # sizes of the convolutions of a block


class Block(nn.Module):
    """Three convolutions with a shortcut around them. The length stays the same."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        sizes = [channels_in, channels, channels]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, channels, kernel, padding=kernel // 2, bias=False)
            for size, kernel in zip(sizes, KERNELS, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in KERNELS)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv1d(channels_in, channels, 1, bias=False), nn.BatchNorm1d(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True), start=1):
            x = norm(convolution(x))
            if number < len(KERNELS):
                x = F.relu(x)
        return F.relu(x + shortcut)


class SeriesResNet(Network):
    """Three residual blocks, and the mean over steps.

    Args:
        channels_in: channels of a series.
        width: channels of the first block.
        classes: number of classes; None for no head.
        dropout: the probability that training drops a feature before the head.
    """

    def __init__(self, channels_in: int, width: int, classes: int | None, dropout: float) -> None:
        super().__init__()
        self.stage_sizes = [width, 2 * width, 2 * width]
        sizes = [channels_in, *self.stage_sizes]
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(sizes, self.stage_sizes, strict=False))
        self.feature_size = sizes[-1]
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Identity() if classes is None else nn.Linear(self.feature_size, classes)

    def outputs(self, inputs: Tensor, stages: bool = False) -> Outputs:
        """Return all outputs for series, shape (B, channels, steps)."""
        maps = []
        for block in self.blocks:
            inputs = block(inputs)
            maps.append(inputs)
        features = inputs.mean(dim=2)
        return Outputs(
            self.head(self.dropout(features)), features, [each.mean(dim=2) for each in maps] if stages else []
        )
