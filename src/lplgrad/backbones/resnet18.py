"""ResNet-18 (He et al. 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lplgrad.backbones import Backbone, stages_and_dropout
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    from lplgrad.backbones._network import Network


class Options(Settings):
    """A residual network of basic blocks.

    Attributes:
        stem: ``cifar`` (3x3, stride 1, no pooling) or ``imagenet`` (7x7, stride 2, max-pooling).
        width: channels of the first stage; None for the architecture's own.
        dropout: the probability that training drops a feature before the head.
    """

    stem: Literal["cifar", "imagenet"] = "cifar"
    width: Count | None = None
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0


def residual(blocks: Sequence[int], width: int) -> Backbone:
    """Return the backbone with some blocks in each stage, and ``width`` channels in the first unless an option says."""

    def build(options: Options, shape: Sequence[int], classes: int | None) -> Network:
        from lplgrad.backbones._residual import ResNet  # imports torch

        return ResNet(blocks, options.width or width, shape[0], classes, options.stem, options.dropout)

    return Backbone(build, Options, offers=stages_and_dropout)


BACKBONE = residual((2, 2, 2, 2), width=64)
