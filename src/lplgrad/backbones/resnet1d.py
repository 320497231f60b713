"""A small one-dimensional residual network for series (Wang et al. 2017): three blocks of three convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lplgrad.backbones import Backbone, stages_and_dropout
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    from lplgrad.backbones._network import Network


class Options(Settings):
    """The residual network.

    Attributes:
        width: channels of the first block; the other two have twice as many.
        dropout: the probability that training drops a feature before the head.
    """

    width: Count = 64
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0


def build(options: Options, shape: Sequence[int], classes: int | None) -> Network:
    """Build the network for series of a shape (channels, steps)."""
    from lplgrad.backbones._series import SeriesResNet  # imports torch

    return SeriesResNet(shape[0], options.width, classes, options.dropout)


BACKBONE = Backbone(build, Options, "series", stages_and_dropout)
