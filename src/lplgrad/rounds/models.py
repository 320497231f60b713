"""The main models (backbones with a classifier) and the loss prediction module.

Parameters have torchvision's names, so that its weights load, and PyTorch's default distributions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lplgrad.study.settings import Model

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


class ResNet(nn.Module):
    """A residual network of basic blocks.

    Args:
        blocks: blocks in each stage; from the second stage on the first block halves the map.
        width: channels of the first stage, doubled in each stage.
        channels_in: channels of an image.
        classes: number of classes C.
        stem: ``cifar`` (3x3, stride 1) or ``imagenet`` (7x7, stride 2, then max-pooling).
    """

    def __init__(self, blocks: Sequence[int], width: int, channels_in: int, classes: int, stem: str) -> None:
        super().__init__()
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(
            channels_in, width, 7 if large else 3, stride=2 if large else 1, padding=3 if large else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(width)
        self.pool_stem = large
        self.channels = [width * 2**stage for stage in range(len(blocks))]
        for stage, count in enumerate(blocks):
            channels = self.channels[stage]
            before = self.channels[max(stage - 1, 0)]
            first = BasicBlock(before, channels, stride=1 if stage == 0 else 2)
            rest = [BasicBlock(channels, channels, stride=1) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(self.channels[-1], classes)

    def stages(self, images: Tensor) -> list[Tensor]:
        """The feature map after each residual stage.

        Args:
            images: normalised, shape (B, channels_in, H, W).

        Returns:
            For stage s a tensor of shape (B, channels[s], H_s, W_s).
        """
        x = F.relu(self.bn1(self.conv1(images)))
        if self.pool_stem:
            x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for stage in range(len(self.channels)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Logits, shape (B, C), of normalised images, shape (B, channels_in, H, W)."""
        return self.classify(global_average(self.stages(images)[-1]))

    def classify(self, features: Tensor) -> Tensor:
        """Logits, shape (B, C), of penultimate features, shape (B, channels[-1])."""
        logits: Tensor = self.fc(features)
        return logits


def global_average(feature_map: Tensor) -> Tensor:
    """Average each channel, (B, D, H, W) to (B, D). For the last stage these are the penultimate features."""
    # In channels-last memory the gradient has the same layout, so that no copy is needed to add it up.
    return feature_map.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1)


class LossPrediction(nn.Module):
    """The loss prediction module X (Yoo and Kweon 2019; paper, section III-B) for the stages of any backbone.

    Args:
        channels: channels of each stage's feature map.
        width: of the hidden layer of each stage.
    """

    def __init__(self, channels: Sequence[int], width: int = 128) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Linear(count, width) for count in channels)
        self.fc = nn.Linear(width * len(channels), 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        """Predicted loss p, shape (B,), from the feature map of every stage."""
        hidden = [F.relu(layer(global_average(stage))) for layer, stage in zip(self.stages, stages, strict=True)]
        predicted: Tensor = self.fc(torch.cat(hidden, dim=1))
        return predicted.squeeze(1)


ARCHITECTURES = {"resnet18": ((2, 2, 2, 2), 64), "small_resnet": ((1, 1, 1), 16)}


def build_model(settings: Model, channels_in: int, classes: int) -> ResNet:
    """Build a main model without weights: its parameters are on the meta device."""
    blocks, width = ARCHITECTURES[settings.name]
    with torch.device("meta"):
        return ResNet(blocks, settings.width or width, channels_in, classes, settings.stem)


def build_auxiliary(model: ResNet) -> LossPrediction:
    """Build a loss prediction module for a main model, without weights."""
    with torch.device("meta"):
        return LossPrediction(model.channels)


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Give a network its first weights, on the CPU, from ``generator`` alone.

    Raises:
        NotImplementedError: the network has a layer of an unknown kind.
    """
    for layer in network.modules():
        # Not network.to_empty(): on a meta tensor it imports sympy, half a second for every job.
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, nn.Parameter(torch.empty(parameter.shape)))
        for name, buffer in list(layer.named_buffers(recurse=False)):
            setattr(layer, name, torch.empty(buffer.shape, dtype=buffer.dtype))
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
            if layer.bias is not None:
                bound = 1 / math.sqrt(layer.weight[0].numel())
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
            layer.reset_running_stats()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise NotImplementedError(f"no initialisation for {type(layer).__name__}")
