"""Core-set (Sener and Savarese 2018): greedy k-center on penultimate features, farthest candidate first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates, Choice
from lplgrad.acquisition._order import given_back, order_of, ordered
from lplgrad.machine.registry import lazy
from lplgrad.study.validation import NoOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


# Centers compared with all candidates at a time, and candidates whose distances are kept up to date after every pick.
BLOCK = 256
WATCHED = 1024


def k_center_greedy(candidates: Tensor, centers: Tensor, picks: int) -> tuple[list[int], Tensor]:
    """Cover the candidates: pick the one farthest from all centers, make it a center, and so on.

    The distance to the nearest center only shrinks, so an old distance is an upper bound. A pick updates the distances
    of the farthest candidates alone. All are updated only if none of these exceeds every bound of the others. The picks
    equal those of brute force in float64. Memory is O((S + L) D).

    Args:
        candidates: features, shape (S, D).
        centers: features of the labelled images, from which the cover starts, shape (L, D).
        picks: how many candidates to pick, at most S.

    Returns:
        The picks in order; of equal distances the earlier candidate is picked. And the squared Euclidean distance to
        the nearest center, float64, shape (S,): for a pick at the time of the pick, for other candidates at the end.
    """
    points = candidates.double()
    nearest = _nearer(torch.full_like(points[:, 0], float("inf")), points, centers.double())
    scores = nearest.clone()
    picked: list[int] = []
    pending: list[int] = []  # picks that only the watched candidates have been compared with
    watched, bound = _watch(nearest)
    for _ in range(picks):
        if pending and not nearest[watched].amax() > bound:
            _nearer(nearest, points, points[pending])
            pending.clear()
            watched, bound = _watch(nearest)
        pick = int(watched[nearest[watched].argmax()])
        scores[pick] = nearest[pick]
        picked.append(pick)
        pending.append(pick)
        distances = (points[watched] - points[pick]).square().sum(dim=1)
        nearest[watched] = nearest[watched].minimum(distances)
        nearest[pick] = -1.0  # not again, even where every other candidate is as near
    if pending:
        _nearer(nearest, points, points[pending])
    nearest[picked] = scores[picked]
    return picked, nearest


def _nearer(nearest: Tensor, points: Tensor, centers: Tensor) -> Tensor:
    """Lower each point's squared distance to its nearest center, in place, by further centers.

    Products of matrices find the nearest center. Its distance comes from differences, which do not cancel, so that
    copies of a point have exactly the same distance.
    """
    for start in range(0, len(centers), BLOCK):
        block = centers[start : start + BLOCK]
        closest = (block.square().sum(dim=1) - points @ (2 * block).T).argmin(dim=1)
        for rows in range(0, len(points), BLOCK * 16):
            some = slice(rows, rows + BLOCK * 16)
            distances = (points[some] - block[closest[some]]).square().sum(dim=1)
            nearest[some] = nearest[some].minimum(distances)
    return nearest


def _watch(nearest: Tensor) -> tuple[Tensor, float]:
    """Return the farthest candidates, ordered by index, and the largest distance of any other."""
    order = nearest.argsort(descending=True, stable=True)
    bound = float(nearest[order[WATCHED]]) if len(order) > WATCHED else float("-inf")
    return order[:WATCHED].sort().values, bound


def cover(candidates: Candidates, points: Tensor, centers: Tensor) -> Choice:
    """Choose by greedy k-center on points that represent the candidates, shape (S, D), from centers, shape (L, D).

    Of candidates that are equally far, the one of lowest index in the pool is chosen, in whatever order they are given.
    The score is the squared distance to the nearest center. Without a center, the first choice has no distance. It is
    then the candidate of lowest index, and there are no scores.
    """
    order = order_of(candidates)
    picks, distances = k_center_greedy(ordered(points, order), centers, candidates.query_size)
    return Choice(order[picks], given_back(distances, order) if len(centers) else None)


def choose(candidates: Candidates, options: NoOptions) -> Choice:
    """Choose the candidates that cover the features best, beside the labelled examples."""
    return cover(candidates, candidates["features"], candidates["labeled:features"])


ACQUISITION = Acquisition(choose=choose, needs=lambda options: {"features": None, "labeled:features": None})
