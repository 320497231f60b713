"""CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32x32 pixels in 100 classes."""

from lplgrad.datasets._cifar import cifar

SOURCE = cifar("CIFAR100", "cifar-100-python.tar.gz", "cifar-100-python", 100)
