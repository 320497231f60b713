"""Any classification model of torchvision, by its name there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from lplgrad.backbones import Backbone
from lplgrad.study.validation import InputFile, Number, Settings, wrong

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lplgrad.backbones._network import Network

WITH_STAGES = "resnet|resnext|wide_resnet"  # families whose stages are known


class Options(Settings):
    """A model of torchvision.

    Attributes:
        model: its name, for example ``resnet50``, ``mobilenet_v3_small`` or ``vit_b_16``.
        weights: a file with the model's weights, .safetensors or what ``torch.save`` wrote of a state dict. None for
            random ones. The head is new if the file's has another number of classes.
        freeze: train the head alone. All else keeps the weights of the file.
        dropout: the probability that training drops a feature before the head. What the model has itself stays as it
            is: dropout (MobileNet, VGG) and stochastic depth (EfficientNet, ConvNeXt, Swin).
    """

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    weights: InputFile | None = None
    freeze: bool = False
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _frozen_weights_are_given(self) -> Self:
        if self.freeze and self.weights is None:
            raise wrong("freeze: true needs weights: the file that holds the weights")
        return self


def build(options: Options, shape: Sequence[int], classes: int | None) -> Network:
    """Build the network, for images of a shape (channels, height, width)."""
    from lplgrad.backbones._torchvision import TorchvisionNetwork  # imports torch

    return TorchvisionNetwork(options.model, shape, classes, options.freeze, options.dropout)


def initialize(network: Network, options: Options, generator: torch.Generator) -> None:
    """Give the network torchvision's own first weights, and those of the file."""
    from lplgrad.backbones._torchvision import TorchvisionNetwork, first_weights  # imports torch

    assert isinstance(network, TorchvisionNetwork)
    first_weights(network, options.weights, generator)


def frozen(network: Network, options: Options) -> dict[str, Tensor]:
    """Read the frozen weights from the file."""
    from lplgrad.backbones._torchvision import TorchvisionNetwork, read_weights  # imports torch

    assert isinstance(network, TorchvisionNetwork)
    assert options.weights is not None
    weights = read_weights(network, options.weights)
    return {name: weights[name] for name in network.frozen}


def offers(options: Options) -> frozenset[str]:
    """Return what the networks offer: dropout if there is any, and stages of residual networks."""
    found = {"stages"} if re.match(WITH_STAGES, options.model) else set[str]()
    return frozenset(found | ({"dropout"} if options.dropout else set()))


BACKBONE = Backbone(build, Options, offers=offers, frozen=frozen, initialize=initialize)
