"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32x32 pixels in 10 classes."""

from __future__ import annotations

from lplgrad.datasets import Source
from lplgrad.datasets._cifar import NoOptions, prepare_cifar, unavailable_cifar

SOURCE = Source(
    prepare_cifar("CIFAR10"), NoOptions, pool_size=lambda options: 50_000, unavailable=unavailable_cifar("CIFAR10")
)
