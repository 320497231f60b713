"""Points on the unit sphere: distances and k-means."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from lplgrad.acquisition import _points
from lplgrad.acquisition._points import k_means, normalized, pairs, seeded, squared_distances


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_rows_become_unit_vectors_and_zeros_stay() -> None:
    found = normalized(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0, 0], [1, 0]], dtype=torch.float64))


def test_distances_in_blocks_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_points, "BLOCK", 7)
    points = normal(30, 4)
    found = torch.full((30, 30), -1.0, dtype=torch.float64)
    for rows, columns, squared in pairs(points):
        found[rows, columns], found[columns, rows] = squared, squared.T
    expected = (points[:, None] - points).square().sum(dim=2)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(squared_distances(points[:3], points), expected[:3])


def test_clusters_far_apart_are_found_and_numbered_by_size_then_by_the_first_point() -> None:
    points = torch.cat([normal(5, 2) * 0.1, 10 + normal(9, 2) * 0.1, 20 + normal(5, 2) * 0.1])
    for seed in range(5):
        clusters = k_means(points, 3, np.random.default_rng(seed))
        assert clusters.tolist() == [1] * 5 + [0] * 9 + [2] * 5


@pytest.mark.parametrize("seed", range(4))
def test_the_clusters_are_those_of_scikit_learn_from_the_same_start(seed: int) -> None:
    points = normal(200, 3, seed=seed)
    start = points[_points._start(points, 6, np.random.default_rng(seed))].numpy()
    expected = KMeans(6, init=start, n_init=1, max_iter=100, tol=0).fit(points.numpy()).labels_
    found = k_means(points, 6, np.random.default_rng(seed)).numpy()
    assert np.array_equal(expected[:, None] == expected, found[:, None] == found)
    assert (np.diff(np.bincount(found)) <= 0).all()


def test_an_empty_cluster_gets_the_farthest_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two first centers are copies, so that one cluster is empty at first."""
    points = torch.tensor([[0.0], [0.0], [1.0], [2.0], [9.0]], dtype=torch.float64)
    monkeypatch.setattr(_points, "_start", lambda *_: [0, 1, 2])
    assert k_means(points, 3, np.random.default_rng(0)).tolist() == [0, 0, 1, 1, 2]


def test_a_cluster_that_stays_empty_gets_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Centers 0, 0 and 10 have the clusters {0, 0}, none and {10, 11}, which no step changes. So 11 gets its own."""
    points = torch.tensor([[0.0], [0.0], [10.0], [11.0]], dtype=torch.float64)
    monkeypatch.setattr(_points, "_start", lambda *_: [0, 1, 2])
    assert k_means(points, 3, np.random.default_rng(0)).tolist() == [0, 0, 1, 2]


def test_fewer_different_points_than_clusters_are_clusters_of_copies() -> None:
    points = normal(3, 4)[torch.arange(20) % 3]
    clusters = k_means(points, 8, np.random.default_rng(0))
    assert clusters.tolist() == [position % 3 for position in range(20)]


def test_copies_are_no_centers_though_distances_are_rounded() -> None:
    """Of 512 features, whose squared distances between copies are about 1e-16."""
    points = normalized(normal(10, 512))[torch.arange(60) % 10]
    for seed in range(5):
        starts = _points._start(points, 30, np.random.default_rng(seed))
        assert sorted(start % 10 for start in starts) == list(range(10))


def test_seeding_picks_no_point_twice() -> None:
    """Even if a point seems to be at a distance from itself."""
    uniforms = np.array([0.0, 0.999, 0.5, 0.2, 0.9])
    assert seeded(2, lambda pick: torch.full((4,), 0.5), uniforms) == [2, 0, 3, 1]


def test_a_start_is_drawn_in_proportion_to_squared_distances() -> None:
    """From a first center at 0, a point at 1 is drawn with probability 1/10 and one at 3 with 9/10."""
    points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    starts = [_points._start(points, 2, np.random.default_rng(seed)) for seed in range(1500)]
    seconds = [second for first, second in starts if first == 0]
    share = seconds.count(2) / len(seconds)
    assert abs(share - 0.9) < 4 * (0.09 / len(seconds)) ** 0.5
    assert all(first != second for first, second in starts)
