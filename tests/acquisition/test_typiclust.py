"""TypiClust: typicality by hand and by brute force, the order of the clusters, and scikit-activeml's choice."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skactiveml.pool import TypiClust
from torch import Tensor

from lplgrad.acquisition import typiclust
from lplgrad.acquisition._points import normalized
from lplgrad.acquisition.typiclust import _Cluster
from tests.acquisition.made_up import chosen, given, holds_what_every_choice_must


def line(*places: float) -> Tensor:
    return torch.tensor(places, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(("neighbors", "means"), [(1, [1, 0.1, 0.1, 0.2, 3.7]), (2, [1.05, 0.2, 0.15, 0.25, 3.8])])
def test_typicality_by_hand(neighbors: int, means: list[float]) -> None:
    """The cluster {0, 1, 1.1, 1.3, 5}: with one neighbour 1 and 1.1 are equally typical, with two 1.1 is the most."""
    cluster = _Cluster(line(0, 1, 1.1, 1.3, 5), torch.arange(5), neighbors)
    np.testing.assert_allclose(cluster._mean_distances() * typiclust.TIE, means, atol=1e-7)
    assert cluster.pick() == {1: 1, 2: 2}[neighbors]


def test_the_mean_is_of_distances_and_not_of_their_squares() -> None:
    """Neighbours at 1 and 3 are nearer than two at 2.1; by squares they are farther."""
    points = torch.tensor([[0, 0], [1, 0], [0, 3], [100, 0], [102.1, 0], [100, 2.1]], dtype=torch.float64)
    means = _Cluster(points, torch.arange(6), 2)._mean_distances()
    assert means[0] * typiclust.TIE == pytest.approx(2)
    assert means[3] * typiclust.TIE == pytest.approx(2.1)


def brute_force(points: npt.NDArray[np.float64], neighbors: int) -> list[int]:
    left, picks = list(range(len(points))), []
    while left:
        distances = np.linalg.norm(points[left][:, None] - points[left], axis=2)
        np.fill_diagonal(distances, np.inf)
        count = min(neighbors, len(left) // 2)
        means = np.sort(distances, axis=1)[:, :count].sum(axis=1) / max(count, 1)
        picks.append(left.pop(int(np.argmin(np.round(means, 7)))))
    return picks


@pytest.mark.parametrize("neighbors", [1, 3, 20])
def test_a_cluster_is_emptied_as_brute_force_does(neighbors: int) -> None:
    points = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(neighbors))
    points[50:] = points[:10]
    cluster = _Cluster(points, torch.arange(60), neighbors)
    assert [cluster.pick() for _ in range(60)] == brute_force(points.numpy(), neighbors)


def blobs(*sizes: int, spread: float = 0.05) -> Tensor:
    """Groups of points around the axes."""
    draw = torch.Generator().manual_seed(0)
    groups = [
        torch.eye(len(sizes))[axis] + spread * torch.randn(size, len(sizes), generator=draw)
        for axis, size in enumerate(sizes)
    ]
    return torch.cat(groups)


def groups_of(picks: npt.NDArray[np.int64], *sizes: int) -> list[int]:
    found: list[int] = np.searchsorted(np.cumsum(sizes), picks, side="right").tolist()
    return found


def test_the_largest_clusters_come_first() -> None:
    for seed in range(4):
        picks = chosen("typiclust", given(blobs(100, 300, 200), None, 3, seed=seed)).picks
        assert groups_of(picks, 100, 300, 200) == [1, 2, 0]


def test_clusters_with_a_label_come_last() -> None:
    """A label in the largest blob: with two picks there are three clusters, and the two others are chosen."""
    points = blobs(300, 200, 100)
    picks = chosen("typiclust", given(points[1:], points[:1], 2)).picks
    assert groups_of(picks, 299, 200, 100) == [1, 2]


def test_small_clusters_are_left_for_last_and_turns_go_round() -> None:
    sizes = 30, 12, 3
    picks = chosen("typiclust", given(blobs(*sizes), None, 45), max_clusters=3).picks
    assert groups_of(picks, *sizes) == [0, 1] * 12 + [0] * 18 + [2] * 3
    for smallest, groups in ((3, [0, 1, 0]), (2, [0, 1, 2])):
        picks = chosen("typiclust", given(blobs(*sizes), None, 3), smallest=smallest).picks
        assert groups_of(picks, *sizes) == groups


def test_copies_are_equally_typical_and_one_is_drawn() -> None:
    points = torch.cat([torch.eye(3)[torch.zeros(10, dtype=torch.int64)], torch.randn(20, 3)])
    picks = [int(chosen("typiclust", given(points, None, 1, seed=seed)).picks[0]) for seed in range(6)]
    assert max(picks) < 10
    assert len(set(picks)) > 2


def test_degenerate_queries() -> None:
    holds_what_every_choice_must("typiclust")
    holds_what_every_choice_must("typiclust", neighbors=3, max_clusters=4, smallest=0)


def test_scikit_activeml_chooses_the_same() -> None:
    """Far groups with odd sizes, so that both find the same clusters, one for each label.

    It never visits a cluster that has a label, and divides by neighbours up to the size of the cluster less one, which
    is the same where clusters have more than twice as many members.
    """
    sizes = 40, 30, 25, 20, 15
    points = normalized(blobs(*sizes, spread=0.1)).float()
    labels = np.full(len(points), np.nan)
    labels[0] = 0
    expected = TypiClust(random_state=0, k=5).query(points.numpy(), labels, batch_size=4)
    picks = chosen("typiclust", given(points[1:], points[:1], 4), neighbors=5).picks
    assert (picks + 1).tolist() == expected.tolist()
