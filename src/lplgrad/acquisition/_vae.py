"""The networks of VAAL: a variational autoencoder for images, and a discriminator of its means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8  # of the group norms


def depth(shape: Sequence[int]) -> int:
    """Return the number of strided convolutions for images of a shape (C, H, W): the last map has 2 or 3 pixels a side,
    or the images' own if they are smaller."""
    return max(0, int(math.log2(min(shape[1:]))) - 1)


class VAE(nn.Module):
    """A variational autoencoder (Sinha et al. 2019), as deep as the images allow.

    The norms are over groups of channels. Batch norm would normalise labelled and unlabelled batches separately in
    training, which hides from the discriminator what it has to find.

    Args:
        shape: of an image (C, H, W).
        latent: D, the length of the mean.
    """

    def __init__(self, shape: Sequence[int], latent: int) -> None:
        super().__init__()
        channels, *self.sides = shape
        layers = depth(shape)
        widths = [min(128 * 2**layer, 1024) for layer in range(layers)]
        encoder: list[nn.Module] = []
        for before, width in zip([channels, *widths], widths, strict=False):
            encoder += [nn.Conv2d(before, width, 4, 2, 1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        last = widths[-1] if widths else channels
        flat = last * math.prod(side // 2**layers for side in self.sides)
        self.mean, self.log_variance = nn.Linear(flat, latent), nn.Linear(flat, latent)
        doublings = max(0, layers - 1)
        self.start = [last, *(-(-side // 2**doublings) for side in self.sides)]
        self.expand = nn.Linear(latent, math.prod(self.start))
        decoder: list[nn.Module] = []
        narrowing = widths[::-1]
        for before, width in pairwise(narrowing):
            decoder += [nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU()]
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(narrowing[-1] if narrowing else channels, channels, 1))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance, shape (B, D) each, of images, shape (B, C, H, W)."""
        hidden = self.encoder(images)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, code: Tensor) -> Tensor:
        """Return images, shape (B, C, H, W), of codes, shape (B, D)."""
        height, width = self.sides
        decoded: Tensor = self.decoder(self.expand(code).view(-1, *self.start))
        return decoded[:, :, :height, :width]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstructed images, and mean and logarithm of the variance. PyTorch's generator draws the code."""
        mean, log_variance = self.encode(images)
        code = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decode(code), mean, log_variance


class Discriminator(nn.Module):
    """The logit, shape (B,), that an image is labelled, from its mean, shape (B, D)."""

    def __init__(self, latent: int, width: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, means: Tensor) -> Tensor:
        logits: Tensor = self.layers(means)
        return logits.squeeze(1)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the mean over images of the Kullback-Leibler divergence from the standard normal distribution, in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def against(logits: Tensor, target: float) -> Tensor:
    """Return the mean binary cross-entropy of logits, shape (B,), against one target."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
