"""A multilayer perceptron for vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lplgrad.backbones import Backbone, stages_and_dropout
from lplgrad.study.validation import Count, Number, Settings

if TYPE_CHECKING:
    from lplgrad.backbones._network import Network


class Options(Settings):
    """Hidden layers with ReLU.

    Attributes:
        hidden: the width of each layer, at least one.
        dropout: the probability that training drops a number of a hidden layer.
    """

    hidden: Annotated[list[Count], Field(min_length=1)] = Field(default=[256, 256])
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0


def build(options: Options, shape: Sequence[int], classes: int | None) -> Network:
    """Build the network for vectors of a shape (D,)."""
    from lplgrad.backbones._perceptron import Perceptron  # imports torch

    return Perceptron(shape[0], options.hidden, classes, options.dropout)


BACKBONE = Backbone(build, Options, "vector", stages_and_dropout)
