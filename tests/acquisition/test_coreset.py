"""Greedy k-center against brute force, and core-set by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad.acquisition import Candidates, Choice, choice_of, coreset, select
from lplgrad.acquisition.coreset import k_center_greedy
from lplgrad.study.validation import NoOptions


def brute_force_k_center(features: Tensor, centers: Tensor, picks: int) -> list[int]:
    """Greedy k-center as it is defined: in every step all distances between all candidates and all centers."""
    chosen: list[int] = []
    for _ in range(picks):
        covered = torch.cat([centers, features[chosen]]).double()
        distances = (features.double()[:, None] - covered[None]).norm(dim=2).amin(dim=1)
        distances[chosen] = -1
        chosen.append(int(distances.argmax()))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_coreset_picks_what_brute_force_picks(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features, centers = torch.randn(80, 4, generator=draw), torch.randn(300, 4, generator=draw) * 0.5
    picks, distances = k_center_greedy(features, centers, 20)
    assert picks == brute_force_k_center(features, centers, 20)
    assert select(distances.numpy(), 20).tolist() == picks, "a distance is that at the time of the pick"


@pytest.mark.parametrize("seed", range(6))
def test_coreset_with_few_candidates_watched(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most distances are out of date at any time, many images are there twice, and many distances tie."""
    monkeypatch.setattr(coreset, "WATCHED", 7)
    monkeypatch.setattr(coreset, "BLOCK", 3)
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(150, 5, generator=draw) if seed % 2 else torch.randint(-2, 3, (150, 3), generator=draw)
    features = torch.cat([features, features[:60]]).float()[torch.randperm(210, generator=draw)]
    picks, _ = k_center_greedy(features, features[:4] * 0.5, 110)
    assert picks == brute_force_k_center(features, features[:4] * 0.5, 110)


def coreset_choice(features: Tensor, labeled: Tensor, picks: int) -> Choice:
    measured = {"features": features, "labeled:features": labeled}
    return choice_of(coreset.ACQUISITION, Candidates(np.arange(len(features)), 1, 1, picks, measured), NoOptions())


def test_coreset_compares_in_float64() -> None:
    """Two candidates whose distances are one number in float32: the farther is picked, though it comes later."""
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-5]])
    assert float(features.double()[1].norm() ** 2) > 1.0
    assert coreset_choice(features, torch.zeros(1, 2), 1).picks.tolist() == [1]


def test_coreset_by_hand() -> None:
    """On a line with a center at 0: first the point at 10, then 4 (4 from 0), then 7 (3 from 4 and 10)."""
    features = torch.tensor([[1.0], [4.0], [7.0], [10.0]])
    choice = coreset_choice(features, torch.tensor([[0.0]]), 3)
    assert choice.picks.tolist() == [3, 1, 2]
    assert choice.scores is not None
    assert choice.scores.tolist() == [1.0, 16.0, 9.0, 100.0]


def test_coreset_with_ties_and_copies() -> None:
    """Equal images are picked once as long as others are left, then in order."""
    features = torch.tensor([[2.0], [2.0], [0.0], [2.0]])
    assert coreset_choice(features, torch.tensor([[0.0]]), 3).picks.tolist() == [0, 1, 2]
