"""What greedy k-center costs at the paper's size, beside extracting its features and beside a full matrix of distances.

The features are points on clusters with noise, as those of a trained network are; how many distances must be brought up
to date depends on them, and so a case with plain Gaussian noise is measured too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gradient_norms import resnet18
from benchmarks.measure import Figure, figures, interleave
from lplgrad.acquisition.coreset import k_center_greedy

NAME = "coreset"
CANDIDATES, LABELED, PICKS, FEATURES = 25_000, 10_000, 1_000, 512


def run(quick: bool) -> Iterator[Figure]:
    """Seconds of a query, and the ratio to extracting the features that it needs."""
    model = resnet18().to(memory_format=torch.channels_last)
    images = torch.randn(256, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def extract() -> None:
        model(images)

    share = 16 if quick else 1
    sizes = (CANDIDATES // share, LABELED // share, PICKS // share)
    setting = f"{sizes[0]:,} candidates, {sizes[1]:,} labelled, {sizes[2]:,} picks, {FEATURES} features"
    cases: dict[str, Callable[[], object]] = {"extracting the features": extract}
    for name, points in (("clustered", clustered), ("Gaussian", gaussian)):
        candidates, centers = points(sizes[0], 1), points(sizes[1], 2)
        cases[f"greedy k-center, {name} features"] = partial(k_center_greedy, candidates, centers, sizes[2])
    seconds = interleave(cases, 1 if quick else 3)
    scale = (sizes[0] + sizes[1]) / len(images)
    seconds["extracting the features"] = [value * scale for value in seconds["extracting the features"]]
    yield from figures(NAME, setting, seconds, "s", "extracting the features")

    small = (4_000, 1_000, 200)
    candidates, centers = clustered(small[0], 1), clustered(small[1], 2)
    seconds = interleave(
        {
            "greedy k-center": lambda: k_center_greedy(candidates, centers, small[2]),
            "full matrix of distances": lambda: full_matrix(candidates, centers, small[2]),
        },
        1 if quick else 3,
    )
    setting = f"{small[0]:,} candidates, {small[1]:,} labelled, {small[2]:,} picks, {FEATURES} features"
    yield from figures(NAME, setting, seconds, "s", "greedy k-center")


def gaussian(count: int, seed: int) -> Tensor:
    """Noise, shape (count, FEATURES)."""
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))


def clustered(count: int, seed: int) -> Tensor:
    """Points around ten centers, not negative, as pooled features are."""
    centers = gaussian(10, 0) * 1.5
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(10, (count,), generator=draw)
    spread = torch.rand(count, 1, generator=draw) * 2
    return (centers[which] + torch.randn(count, FEATURES, generator=draw) * spread).relu()


def full_matrix(candidates: Tensor, centers: Tensor, picks: int) -> list[int]:
    """As common code bases do it: all distances of all points to each other, at once."""
    points = torch.cat([centers, candidates])
    distances = torch.cdist(points, points)
    nearest = distances[len(centers) :, : len(centers)].amin(dim=1)
    chosen = []
    for _ in range(picks):
        chosen.append(int(nearest.argmax()))
        nearest = nearest.minimum(distances[len(centers) :, len(centers) + chosen[-1]])
    return chosen
