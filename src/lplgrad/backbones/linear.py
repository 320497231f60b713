"""A linear classifier of vectors: logistic regression. Its features are the vectors themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lplgrad.backbones import Backbone
from lplgrad.study.validation import NoOptions

if TYPE_CHECKING:
    from lplgrad.backbones._network import Network


def build(options: NoOptions, shape: Sequence[int], classes: int | None) -> Network:
    """Build the network for vectors of a shape (D,)."""
    from lplgrad.backbones._perceptron import Perceptron  # imports torch

    return Perceptron(shape[0], [], classes)


BACKBONE = Backbone(build, modality="vector")
