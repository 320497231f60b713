"""Core-set (Sener and Savarese 2018): greedy k-center on penultimate features, farthest candidate first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lplgrad.acquisition import Acquisition, Candidates, NoOptions

if TYPE_CHECKING:
    from torch import Tensor


def k_center_greedy(candidates: Tensor, centers: Tensor, picks: int) -> Tensor:
    """Cover the candidates: pick the one farthest from all centers, make it a center, and so on.

    Args:
        candidates: features, shape (S, D).
        centers: features of the labelled images, from which the cover starts, shape (L, D).
        picks: how many candidates to pick, at most S.

    Returns:
        Squared Euclidean distance to the nearest center, shape (S,): of a pick when it was picked, of every other
        candidate at the end. No pick is nearer than a candidate that was not picked, so the picks are the ``picks``
        largest; where distances tie the earlier candidate was picked.
    """
    nearest = candidates.new_full((len(candidates),), float("inf"))
    for start in range(0, len(centers), 256):
        block = centers[start : start + 256]
        squared = candidates.square().sum(dim=1, keepdim=True) - 2 * candidates @ block.T + block.square().sum(dim=1)
        nearest = nearest.minimum(squared.amin(dim=1))
    nearest.clamp_(min=0)
    scores = nearest.clone()
    for _ in range(picks):
        pick = int(nearest.argmax())
        scores[pick] = nearest[pick]
        nearest = nearest.minimum((candidates - candidates[pick]).square().sum(dim=1))
        nearest[pick] = -1.0  # not even where every other candidate is as near
    picked = nearest < 0
    return scores.where(picked, nearest)


def score(candidates: Candidates, options: NoOptions) -> Tensor:
    """Squared distance of each candidate to its nearest center."""
    assert candidates.features is not None
    assert candidates.labeled_features is not None
    return k_center_greedy(candidates.features, candidates.labeled_features, candidates.query_size)


ACQUISITION = Acquisition(score, needs=frozenset({"features", "labeled_features"}))
