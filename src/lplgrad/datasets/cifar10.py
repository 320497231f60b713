"""CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32x32 pixels in 10 classes."""

from lplgrad.datasets._cifar import cifar

SOURCE = cifar("CIFAR10", "cifar-10-python.tar.gz", "cifar-10-batches-py", 10)
