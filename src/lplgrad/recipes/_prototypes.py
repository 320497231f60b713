"""The head of NCE-Net: prototypes of the classes, and the probabilities that follow from distances to them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The least 1 - cos. Cosines in float32 are exact to about as much. At 0 the loss of other classes is infinite.
NEAREST = 1e-7


class Prototypes(nn.Module):
    """A linear layer of the features, and for each class prototypes and a radius.

    With z the output of the layer, m a prototype, s the sigmoid of each number, and cos the cosine of s(z) and s(m),
    the probability of class c is ``P_c = exp(-(1 - cos) / sigma_c^2)``, where ``sigma_c`` is the sigmoid of the radius.
    Of several prototypes of a class the nearest counts.

    Args:
        size: D, the length of the features, of z and of the prototypes.
        classes: C.
        each: the number of prototypes of a class.
    """

    def __init__(self, size: int, classes: int, each: int = 1) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size, bias=False)
        self.centers = Centers(size, classes, each)

    def forward(self, features: Tensor) -> Tensor:
        """Return log P, shape (B, C), at most 0, from features, shape (B, D)."""
        logarithms: Tensor = self.centers(self.layer(features))
        return logarithms


class Centers(nn.Module):
    """The prototypes and radii of ``Prototypes``."""

    def __init__(self, size: int, classes: int, each: int) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.empty(classes, each, size))
        self.radii = nn.Parameter(torch.empty(classes))

    def reset_parameters(self) -> None:
        """Draw the prototypes from a standard normal distribution, and the radii uniformly between -0.5 and 0.5."""
        nn.init.normal_(self.prototypes)
        nn.init.uniform_(self.radii, -0.5, 0.5)

    def forward(self, places: Tensor) -> Tensor:
        """Return log P, float32, shape (B, C), from z, shape (B, D), also under autocast."""
        # A matrix product under autocast rounds its operands, whatever their type: cosines would be exact to 0.004.
        with torch.autocast(places.device.type, enabled=False):
            directions = F.normalize(places.float().sigmoid(), dim=1)
            prototypes = F.normalize(self.prototypes.float().sigmoid(), dim=2)
            cosines = F.linear(directions, prototypes.flatten(0, 1)).view(-1, *self.prototypes.shape[:2]).amax(dim=2)
            return -(1 - cosines).clamp(min=NEAREST) / self.radii.float().sigmoid().square()


def log_complement(logarithms: Tensor) -> Tensor:
    """Return log(1 - P) from log P < 0, of the same shape, exact for P near 0 and near 1."""
    # Each formula is exact on its side, and its gradient would be NaN far on the other side: so none is asked there.
    near = logarithms > -0.6931
    upper = torch.log(-torch.expm1(logarithms.where(near, -0.5)))
    lower = torch.log1p(-torch.exp(logarithms.where(~near, -1.0)))
    return torch.where(near, upper, lower)


def binary_losses(logarithms: Tensor, labels: Tensor) -> Tensor:
    """Return the binary cross-entropy of each class's P against whether it is the example's, in nats, shape (B, C).

    Args:
        logarithms: log P < 0, shape (B, C).
        labels: the classes, int64, shape (B,).
    """
    own = F.one_hot(labels, logarithms.shape[1]).bool()
    return -torch.where(own, logarithms, log_complement(logarithms))


def rejection(logarithms: Tensor) -> Tensor:
    """Return the sum over classes of 1 - P, float64, shape (B,), from log P: from 0, near all prototypes, to C."""
    return -torch.expm1(logarithms.double()).sum(dim=1)


def confusion(logarithms: Tensor) -> Tensor:
    """Return the sum over classes of 1 - max P + P, float64, shape (B,), from log P: 1 for a sure class, C for equal
    ones."""
    logarithms = logarithms.double()
    far = -torch.expm1(logarithms.amax(dim=1))
    return logarithms.shape[1] * far + logarithms.exp().sum(dim=1)
