"""Examples as points on the unit sphere: their distances in blocks, and k-means."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from lplgrad.acquisition import Candidates
from lplgrad.acquisition._order import drawn_order, ordered
from lplgrad.machine.randomness import stream
from lplgrad.machine.registry import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

# What a function over a representation needs.
NEEDS = {"representation": None, "labeled:representation": None}
BLOCK = 1024  # points whose distances to as many others are in memory at a time
SAME = 1e-12  # squared distances up to here are rounding: the points are copies of each other
ITERATIONS = 100  # of k-means, at most


class Points(NamedTuple):
    """The candidates, in a drawn order, and the labelled examples as unit vectors."""

    order: npt.NDArray[np.int64]  # the position of each point among the candidates, shape (S,)
    points: Tensor  # of the candidates, float64, shape (S, D)
    labeled: Tensor  # float64, shape (L, D)


def points_of(candidates: Candidates) -> Points:
    """Return the candidates and the labelled examples as points."""
    order = drawn_order(candidates)
    points = normalized(ordered(candidates["representation"], order))
    return Points(order, points, normalized(candidates["labeled:representation"]))


def normalized(rows: Tensor) -> Tensor:
    """Scale the rows to length one, float64, shape (N, D). A row of zeros stays one."""
    rows = rows.double()
    lengths = rows.norm(dim=1, keepdim=True)
    unit: Tensor = rows / lengths.where(lengths > 0, torch.ones_like(lengths))
    return unit


def squared_distances(one: Tensor, other: Tensor) -> Tensor:
    """Return squared Euclidean distances, float64, shape (N, M), between points of shape (N, D) and (M, D).

    Copies of a point are at no distance from it.
    """
    products = torch.addmm(other.square().sum(dim=1), one, other.T, alpha=-2)
    return torch.threshold_(products.add_(one.square().sum(dim=1)[:, None]), SAME, 0.0)


def pairs(points: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield the squared distances of all pairs in blocks: rows, columns that do not come before them, and distances."""
    starts = range(0, len(points), BLOCK)
    for start in starts:
        for other in starts[start // BLOCK :]:
            rows, columns = slice(start, start + BLOCK), slice(other, other + BLOCK)
            yield rows, columns, squared_distances(points[rows], points[columns])


def k_means(points: Tensor, count: int, draw: np.random.Generator) -> Tensor:
    """Cluster points by Lloyd's algorithm from a k-means++ start (Arthur and Vassilvitskii 2007).

    This runs on a GPU too, and its sums do not depend on the number of threads as those of scikit-learn do. A cluster
    that becomes empty gets the point that is farthest from its center. Points with fewer than ``count`` different
    values have fewer clusters.

    Args:
        points: float64, shape (N, D).
        count: K, the number of clusters, at most N.
        draw: draws the start.

    Returns:
        The cluster of each point, int64, shape (N,). Clusters are numbered by size, largest first, then by their
        first point.
    """
    centers = points[_start(points, count, draw)]
    clusters = torch.full_like(points[:, 0], -1, dtype=torch.int64)
    for _ in range(ITERATIONS):
        before = clusters
        clusters, distances = _nearest(points, centers)
        sizes = clusters.bincount(minlength=len(centers))
        for empty in (sizes == 0).nonzero()[:, 0].tolist():
            farthest = int(distances.where(sizes[clusters] > 1, torch.zeros_like(distances)).argmax())
            if not distances[farthest]:
                break
            sizes[clusters[farthest]] -= 1
            clusters[farthest], sizes[empty], distances[farthest] = empty, 1, 0
        if torch.equal(clusters, before):
            break
        sums = torch.zeros_like(centers).index_add_(0, clusters, points)
        centers = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], centers)
    return _numbered(clusters)


def _start(points: Tensor, count: int, draw: np.random.Generator) -> list[int]:
    """Draw points as first centers, each in proportion to the squared distance to the nearest one before."""
    squares = points.square().sum(dim=1)

    def distances(center: int) -> Tensor:
        found = squares + squares[center] - 2 * (points @ points[center])
        return torch.threshold_(found, SAME, 0.0)

    return seeded(int(draw.integers(len(points))), distances, draw.random(count - 1))


def seeded(first: int, distances: Callable[[int], Tensor], uniforms: npt.NDArray[np.float64]) -> list[int]:
    """Pick points as the seeding of k-means++ does, in proportion to the squared distance to the nearest pick.

    Args:
        first: the first pick.
        distances: returns the squared distances of all points to one, float64, not negative, shape (N,).
        uniforms: a number from [0, 1) for each pick after the first.

    Returns:
        The picks in order. There are fewer than asked for if all points are at no distance from the picks.
    """
    picks = [first]
    nearest = distances(first).clone()
    for uniform in uniforms:
        nearest[picks[-1]] = 0.0  # also if rounding leaves a point at a distance from itself
        sums = nearest.cpu().cumsum(dim=0)
        if not sums[-1] > 0:
            break
        picks.append(int(torch.searchsorted(sums, sums[-1] * uniform, right=True)))
        nearest = nearest.minimum(distances(picks[-1]))
    return picks


def _nearest(points: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest center of each point, and the squared distance to it; shape (N,) each."""
    found = [squared_distances(block, centers).min(dim=1) for block in torch.split(points, BLOCK)]
    return torch.cat([one.indices for one in found]), torch.cat([one.values for one in found])


def _numbered(clusters: Tensor) -> Tensor:
    """Number clusters by size, largest first, then by their first point."""
    _, first, numbers, sizes = np.unique(
        clusters.cpu().numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    ranks = np.empty(len(sizes), dtype=np.int64)
    ranks[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return torch.from_numpy(ranks[numbers]).to(clusters.device)


def clusters_of(candidates: Candidates, given: Points, count: int) -> Tensor:
    """Cluster candidates and labelled examples together, with the query's own random stream.

    Returns:
        The cluster of each candidate and then of each labelled example, int64, shape (S + L,), as ``k_means``.
    """
    together = torch.cat([given.points, given.labeled])
    draw = stream(candidates.seed, "k-means", candidates.round_number)
    return k_means(together, min(count, len(together)), draw)
