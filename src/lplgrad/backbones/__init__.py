"""Backbones: one module for each kind of network, which defines ``BACKBONE``.

A backbone maps a batch of network input to logits, penultimate features and, if it offers them, pooled stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lplgrad.machine.registry import Registry
from lplgrad.study.validation import NoOptions, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lplgrad.backbones._network import Network


@dataclass(frozen=True)
class Backbone:
    """A kind of network."""

    # From the options, the shape of one input and the number of classes, None for no head, to a network
    build: Callable[[Any, Sequence[int], int | None], Network]
    options: type[Settings] = NoOptions  # keys beside ``name`` in the configuration
    modality: str = "image"  # of the examples that its networks take
    # What its networks offer to a recipe: "stages" (pooled, shallow to deep) and "dropout" (random in train mode)
    offers: Callable[[Any], frozenset[str]] = lambda options: frozenset()
    # Returns the frozen weights and buffers of a network by name: those that its options read from a file
    frozen: Callable[[Network, Any], dict[str, Tensor]] | None = None
    # Gives a network that ``build`` returned on the meta device its first weights, on the CPU, from a generator alone.
    # None for PyTorch's default distributions.
    initialize: Callable[[Network, Any, torch.Generator], None] | None = None


def stages_and_dropout(options: Any) -> frozenset[str]:
    """Return what networks offer that have stages, and dropout if the option of that name is not 0."""
    return frozenset({"stages", "dropout"} if options.dropout else {"stages"})


registry = Registry[Backbone](__name__, __path__, "BACKBONE")
