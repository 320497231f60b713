"""Greedy maximum coverage: pick the point that adds most to how well the points are covered, and so on.

A point is covered as well as it is similar to the nearest pick or labelled example. The gain of a pick is the weighted
sum of what it adds for all points. It only shrinks as further points are picked, so an old gain is an upper bound
(Minoux 1978), and few gains are kept up to date after every pick.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lplgrad.acquisition import Candidates, Choice
from lplgrad.acquisition._order import given_back, ordered
from lplgrad.acquisition._points import BLOCK, Points, pairs, squared_distances
from lplgrad.machine.registry import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

# From squared distances to similarities between 0 and 1. It may change its argument.
Kernel = Callable[["Tensor"], "Tensor"]
WATCHED = 256  # candidates whose gains are kept up to date after every pick
# Gains in units of the sum of all weights. Smaller differences are rounding, and the earlier candidate is picked.
TIE = 2.0**-40
NOTHING = 1e-9  # a gain up to here is none


def ball(radius: float) -> Kernel:
    """Return the kernel that is 1 for copies of a point and for points nearer than a radius, and 0 for all others.

    The bound is lowered by what rounding may take off the distance of a point that is exactly as far as the radius.
    """
    bound = max(radius**2 * (1 - 1e-12), 1e-300)
    return lambda squared: (squared < bound).double()


def gaussian(width: float) -> Kernel:
    """Return the kernel exp(-d^2 / width^2) of a distance d."""
    return lambda squared: squared.div_(-(width**2)).exp_()


def herd(
    candidates: Candidates,
    given: Points,
    kernel: Kernel,
    weights: Tensor | None = None,
) -> Choice:
    """Choose the candidates that cover all candidates best, together with the labelled examples.

    If nothing is left to gain, the largest weights are chosen. Ties are drawn.

    Args:
        candidates: whose ``query_size`` is asked for.
        given: the candidates and the labelled examples as points, see ``points_of``.
        kernel: from squared distances on the unit sphere to similarities.
        weights: how much it counts to cover each candidate, float64, not negative, shape (S,); None for 1.

    Returns:
        The choice. The scores are the gains before the first pick, in units of the mean coverage.
    """
    order, points, labeled = given
    weights = torch.ones_like(points[:, 0]) if weights is None else ordered(weights, order)
    covered = covered_by(points, labeled, kernel)
    gains = first_gains(points, covered, weights, kernel)
    picks = order[cover(points, covered, weights, kernel, gains, candidates.query_size)]
    rest = order[weights.argsort(descending=True, stable=True).cpu().numpy()]
    more = rest[~np.isin(rest, picks)][: candidates.query_size - len(picks)]
    return Choice(np.concatenate([picks, more]), given_back(gains / len(order), order))


def covered_by(points: Tensor, centers: Tensor, kernel: Kernel) -> Tensor:
    """Return how well each point is covered by the centers, float64, shape (N,): 0 without centers."""
    covered = torch.zeros_like(points[:, 0])
    for rows in range(0, len(points), BLOCK):
        some = slice(rows, rows + BLOCK)
        for block in torch.split(centers, BLOCK) if len(centers) else ():
            similar = kernel(squared_distances(points[some], block))
            covered[some] = covered[some].maximum(similar.amax(dim=1))
    return covered


def first_gains(points: Tensor, covered: Tensor, weights: Tensor, kernel: Kernel) -> Tensor:
    """Return the gain of each point if it were picked first, float64, shape (N,)."""
    still_open = _open(covered, weights)
    rows, others = still_open.nonzero()[:, 0], (~still_open).nonzero()[:, 0]
    gains, found = torch.zeros_like(covered), torch.zeros_like(covered[rows])
    some, covered, weights = points[rows], covered[rows], weights[rows]
    for one, other, squared in pairs(some):
        similar = kernel(squared)
        if one != other:
            found[one] += (similar - covered[other]).clamp_(min=0) @ weights[other]
        found[other] += weights[one] @ similar.sub_(covered[one, None]).clamp_(min=0)
    gains[rows] = found
    for block in torch.split(others, BLOCK) if len(others) else ():
        for start in range(0, len(some), BLOCK):
            one = slice(start, start + BLOCK)
            similar = kernel(squared_distances(some[one], points[block]))
            gains[block] += weights[one] @ similar.sub_(covered[one, None]).clamp_(min=0)
    return gains


def _open(covered: Tensor, weights: Tensor) -> Tensor:
    """Return which points can still be covered better and count, shape (N,)."""
    return (covered < 1) & (weights > 0)


def cover(
    points: Tensor, covered: Tensor, weights: Tensor, kernel: Kernel, gains: Tensor, picks: int
) -> npt.NDArray[np.int64]:
    """Pick greedily; of equal gains the earlier point. Memory is O(N D + N ``WATCHED``).

    Args:
        points: float64, shape (N, D).
        covered: how well each is covered before the first pick, shape (N,).
        weights: of the points, not negative, shape (N,).
        kernel: from squared distances to similarities.
        gains: as ``first_gains``, shape (N,).
        picks: how many to pick at most.

    Returns:
        Positions of the picks in order, int64. There are fewer than ``picks`` if no further one would gain anything.
    """
    total, bounds, some = float(weights.sum()), gains.clone(), points
    chosen: list[int] = []
    watched = torch.empty(0, dtype=torch.int64, device=points.device)
    similar = points.new_empty(len(points), 0)  # of the points that are open to the watched ones
    current = points.new_empty(0)  # gains of the watched ones
    rest = (float("inf"), 0)  # the largest bound of all others, and minus the first position that has it

    def ranked(values: Tensor) -> Tensor:
        return (values / (total * TIE)).round()

    while total > 0 and len(chosen) < picks:
        ranks = ranked(current)
        at = int(ranks.argmax()) if len(ranks) else 0
        if not len(ranks) or (float(ranks[at]), -int(watched[at])) < rest:
            bounds[watched] = current
            order = ranked(bounds).argsort(descending=True, stable=True)
            before, watched = watched, order[:WATCHED].sort().values
            rest = (float(ranked(bounds[order[WATCHED]])), -int(order[WATCHED])) if len(order) > WATCHED else (-1.0, 0)
            rows = _open(covered, weights)
            if not bool(rows.all()):
                some, covered, weights, similar = some[rows], covered[rows], weights[rows], similar[rows]
            similar = _similar(some, points, watched, kernel, before, similar)
            current = weights @ (similar - covered[:, None]).clamp_(min=0)
            current[bounds[watched] == -float("inf")] = -float("inf")
            continue
        if current[at] <= NOTHING * total:
            break
        chosen.append(int(watched[at]))
        nearer = (similar[:, at] > covered).nonzero()[:, 0]
        part, column = similar[nearer], similar[nearer, at]
        lost = (part - covered[nearer, None]).clamp_(min=0) - part.sub_(column[:, None]).clamp_(min=0)
        current -= weights[nearer] @ lost
        covered = covered.index_copy(0, nearer, column)
        current[at] = -float("inf")
    return np.array(chosen, dtype=np.int64)


def _similar(some: Tensor, points: Tensor, watched: Tensor, kernel: Kernel, before: Tensor, known: Tensor) -> Tensor:
    """Return similarities of some points to the watched ones, shape (N, W), from those that are known already."""
    similar = some.new_empty(len(some), len(watched))
    place = torch.searchsorted(before, watched).clamp(max=max(len(before) - 1, 0))
    old = before[place] == watched if len(before) else torch.zeros_like(watched, dtype=torch.bool)
    new = (~old).nonzero()[:, 0]
    centers = points[watched[new]]
    for start in range(0, len(some), BLOCK):
        rows = slice(start, start + BLOCK)
        similar[rows, new] = kernel(squared_distances(some[rows], centers))
        similar[rows, old] = known[rows, place[old]]
    return similar
