"""Residual networks of basic blocks (He et al. 2016), for images.

Parameters have torchvision's names, so that its weights load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.backbones._network import Network, Outputs

# With fewer input channels than this, the weight gradient of a strided 1x1 convolution is not safe on the CPU: oneDNN
# 3.12 writes outside its memory, and the process crashes, hangs or computes nonsense.
LEAST_CHANNELS = 16


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them (He et al. 2016).

    Attributes:
        step: the shortcut's convolution reads every ``step``-th row and column of the input. It is 1, and the
            convolution has the block's stride, unless the input has too few channels for that.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.step = stride if channels_in < LEAST_CHANNELS else 1
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride // self.step, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(x if self.step == 1 else x[:, :, :: self.step, :: self.step])
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet(Network):
    """A residual network of basic blocks.

    Args:
        blocks: blocks in each stage; from the second stage on the first block halves the map.
        width: channels of the first stage, doubled in each stage.
        channels_in: channels of an image.
        classes: number of classes C; None for no head.
        stem: ``cifar`` (3x3, stride 1) or ``imagenet`` (7x7, stride 2, then max-pooling).
        dropout: the probability that training drops a feature before the head.
    """

    def __init__(
        self, blocks: Sequence[int], width: int, channels_in: int, classes: int | None, stem: str, dropout: float
    ) -> None:
        super().__init__()
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(
            channels_in, width, 7 if large else 3, stride=2 if large else 1, padding=3 if large else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.pool_stem = large
        self.stage_sizes = [width * 2**stage for stage in range(len(blocks))]
        for stage, count in enumerate(blocks):
            channels = self.stage_sizes[stage]
            before = self.stage_sizes[max(stage - 1, 0)]
            first = BasicBlock(before, channels, stride=1 if stage == 0 else 2)
            rest = [BasicBlock(channels, channels, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.feature_size = self.stage_sizes[-1]
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Identity() if classes is None else nn.Linear(self.feature_size, classes)

    def outputs(self, inputs: Tensor, stages: bool = False) -> Outputs:
        """Return all outputs for normalised images, shape (B, channels_in, H, W)."""
        x = F.relu(self.bn1(self.conv1(inputs)))
        if self.pool_stem:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for stage in range(len(self.stage_sizes)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        features = global_average(x)
        logits = self.fc(self.dropout(features))
        return Outputs(logits, features, [global_average(each) for each in maps] if stages else [])


def global_average(feature_map: Tensor) -> Tensor:
    """Average each channel, (B, D, H, W) to (B, D)."""
    # In channels-last memory the gradient has the same layout, so that no copy is needed to add it up.
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1)
