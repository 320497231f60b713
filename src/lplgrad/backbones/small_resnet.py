"""A residual network for tiny images: one basic block in each of three stages, of 16 to 64 channels."""

from __future__ import annotations

from lplgrad.backbones.resnet18 import residual

BACKBONE = residual((1, 1, 1), width=16)
