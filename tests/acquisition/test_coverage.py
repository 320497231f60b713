"""Greedy coverage against brute force; ProbCover and MaxHerding by hand, and as scikit-activeml chooses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from skactiveml.pool import MaxHerding, ProbCover
from torch import Tensor

from lplgrad.acquisition import _coverage
from lplgrad.acquisition._coverage import Kernel, ball, cover, covered_by, first_gains, gaussian
from lplgrad.acquisition._points import clusters_of, normalized, points_of
from lplgrad.acquisition.probcover import pure_radius
from tests.acquisition.made_up import chosen, given, holds_what_every_choice_must

LINE = torch.tensor([0.0, 1, 2, 3, 10, 11, 20], dtype=torch.float64)[:, None]
CIRCLE = [[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in (0, 10, 20, 90, 100, 180)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def greedy(points: Tensor, centers: Tensor, weights: Tensor, kernel: Kernel, picks: int) -> tuple[list[int], Tensor]:
    covered = covered_by(points, centers, kernel)
    gains = first_gains(points, covered, weights, kernel)
    return cover(points, covered, weights, kernel, gains, picks).tolist(), gains


def brute_force(
    points: Tensor, centers: Tensor, weights: Tensor, kernel: Kernel, picks: int
) -> tuple[list[int], list[float]]:
    """All gains anew for every pick, from distances that are differences of points."""
    chosen: list[int] = []
    best: list[float] = []
    similar = kernel((points[:, None] - points).square().sum(dim=2))
    covered = torch.cat([kernel((points[:, None] - centers).square().sum(dim=2)), torch.zeros(len(points), 1)], dim=1)
    covered = covered.amax(dim=1)
    for _ in range(picks):
        gains = weights @ (similar - covered[:, None]).clamp(min=0)
        gains[chosen] = -1
        gains = (gains * 1e9).round() / 1e9
        if gains.amax() <= 1e-9 * weights.sum():
            break
        chosen.append(int(gains.argmax()))
        best.append(float(gains.amax()))
        covered = covered.maximum(similar[:, chosen[-1]])
    return chosen, best


def test_balls_by_hand() -> None:
    """On a line: degrees 2, 3, 3, 2, 2, 2, 1; the second pick has degrees 0, 0, 1, 1, 2, 2, 1. With 1 labelled it is
    the first."""
    none, one = LINE[:0], torch.ones(7, dtype=torch.float64)
    picks, gains = greedy(LINE, none, one, ball(1.5), 7)
    assert gains.tolist() == [2, 3, 3, 2, 2, 2, 1]
    assert picks == [1, 4, 2, 6], "nothing is left to cover after these"
    picks, gains = greedy(LINE, LINE[1:2], one, ball(1.5), 7)
    assert picks == [4, 2, 6]
    assert gains.tolist() == [0, 0, 1, 1, 2, 2, 1]


def test_a_ball_has_its_center_and_no_point_on_its_surface() -> None:
    one = torch.ones(7, dtype=torch.float64)
    for radius, degrees in ((1.0, [1] * 7), (1.0 + 1e-9, [2, 3, 3, 2, 2, 2, 1]), (1e-9, [1] * 7), (0.0, [1] * 7)):
        assert greedy(LINE, LINE[:0], one, ball(radius), 7)[1].tolist() == degrees


@pytest.mark.parametrize(("watched", "labeled"), [(3, 0), (256, 3)])
@pytest.mark.parametrize("kernel", [ball(0.9), ball(0.3), gaussian(1.0), gaussian(0.2), gaussian(1e-3)])
def test_the_picks_are_those_of_brute_force(
    watched: int, labeled: int, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_coverage, "WATCHED", watched)
    monkeypatch.setattr("lplgrad.acquisition._points.BLOCK", 16)
    monkeypatch.setattr(_coverage, "BLOCK", 16)
    points = normalized(normal(50, 3))
    points[40:] = points[:10]
    weights = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights[::9] = 0
    for each in (weights, torch.ones_like(weights), torch.zeros_like(weights)):
        expected, best = brute_force(points, points[:labeled], each, kernel, 50)
        assert greedy(points, points[:labeled], each, kernel, 50)[0] == expected
        assert (np.diff(best) <= 1e-9).all(), "gains never grow"
        assert greedy(points, points[:labeled], each, kernel, 9)[0] == expected[:9]


@pytest.mark.parametrize(("watched", "radius"), [(1, 1.5), (5, 2.5)])
def test_the_earlier_of_equal_gains_is_picked_whether_watched_or_not(
    watched: int, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points of a grid in a random order, many of which have equal gains."""
    monkeypatch.setattr(_coverage, "WATCHED", watched)
    one = torch.ones(49, dtype=torch.float64)
    grid = torch.cartesian_prod(torch.arange(7.0), torch.arange(7.0)).double()
    for seed in range(3):
        points = grid[torch.randperm(49, generator=torch.Generator().manual_seed(seed))]
        expected, _ = brute_force(points, points[:0], one, ball(radius), 49)
        assert greedy(points, points[:0], one, ball(radius), 49)[0] == expected


def test_herding_by_hand() -> None:
    """Unit vectors at 0, 10, 20, 90, 100 and 180 degrees, width 0.5."""
    choice = chosen("max_herding", given(CIRCLE, None, 3), width=0.5)
    assert choice.picks.tolist() == [1, 4, 5]
    np.testing.assert_allclose(choice.scores, [0.4172, 0.4621, 0.4182, 0.3155, 0.3148, 0.1669], atol=5e-5)  # type: ignore[arg-type]


def test_a_copy_of_a_labelled_example_gains_nothing() -> None:
    choice = chosen("max_herding", given(CIRCLE, CIRCLE[1:2], 6), width=0.5)
    assert choice.scores is not None
    assert choice.scores[1] == pytest.approx(0, abs=1e-7)
    assert choice.picks[-1] == 1


@pytest.mark.parametrize("labeled", [0, 4])
def test_scikit_activeml_herds_the_same(labeled: int) -> None:
    points = normal(90, 5).float()
    labels = np.full(90, np.nan)
    labels[:labeled] = 0
    query = MaxHerding(metric_dict={"gamma": 1 / 0.7**2}, random_state=0)
    # After 15 picks, two points that are nearest to each other gain the same, and it takes the first of them.
    expected = query.query(points.double().numpy(), labels, batch_size=15)
    picks = chosen("max_herding", given(points[labeled:], points[:labeled], 15), width=0.7).picks
    assert (picks + labeled).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["max_herding", "probcover"])
def test_degenerate_queries(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    holds_what_every_choice_must(name)
    holds_what_every_choice_must(name, **{"width": 1e-3} if name == "max_herding" else {"radius": 0.4})


def test_once_all_is_covered_the_rest_is_drawn() -> None:
    """Two balls cover everything; the seed draws the rest, and more picks go on where fewer ended."""
    points = normal(30, 2) * 0.01 + torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)[torch.arange(30) % 2]
    one, other = (chosen("probcover", given(points, None, 12, seed=seed), radius=0.5).picks for seed in (1, 2))
    assert sorted(one[:2] % 2) == sorted(other[:2] % 2) == [0, 1]
    assert one.tolist() != other.tolist()
    assert chosen("probcover", given(points, None, 6), radius=0.5).picks.tolist() == one[:6].tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [("probcover", {"radius": 1e-4}), ("max_herding", {"width": 1e-5}), ("max_herding", {"width": 1e5})],
)
def test_ties_are_drawn_and_do_not_go_to_the_first_class(name: str, options: dict[str, Any]) -> None:
    """A pool is often sorted by class, and all of these candidates gain the same."""
    points = normal(200, 3)
    one, other = (chosen(name, given(points, None, 40, seed=seed), **options).picks for seed in (1, 2))
    assert one.tolist() != other.tolist()
    assert np.histogram(one, 4, (0, 200))[0].min() >= 3


@pytest.mark.parametrize("purity", [0.5, 0.83, 0.95, 1.0])
def test_the_radius_is_the_largest_at_which_balls_are_pure(purity: float) -> None:
    points, clusters = normalized(normal(60, 2)), (normal(60, seed=3) > 0).long()
    radius = pure_radius(points, clusters, purity)
    distances = (points[:, None] - points).norm(dim=2)
    other = clusters[:, None] != clusters

    def share(of: float) -> float:
        return float((~((distances < of) & other).any(dim=1)).double().mean())

    assert share(radius * (1 - 1e-9)) >= purity - 1e-12
    assert share(radius * (1 + 1e-9)) < purity
    assert pure_radius(points, torch.zeros_like(clusters), purity) == math.inf


def test_the_number_of_clusters_finds_the_radius(capsys: pytest.CaptureFixture[str]) -> None:
    """Points around three axes, whose balls are pure up to larger radii if there are fewer clusters. The number of
    classes does not matter then."""
    points = torch.eye(3)[torch.arange(60) % 3] + 0.1 * normal(60, 3).float()
    found = {}
    for clusters in (3, 12):
        question = given(points[3:], points[:3], 20, classes=5)
        made = points_of(question)
        radius = pure_radius(torch.cat([made.points, made.labeled]), clusters_of(question, made, clusters), 0.95)
        found[clusters] = chosen("probcover", question, clusters=clusters).picks.tolist()
        assert found[clusters] == chosen("probcover", question, radius=radius).picks.tolist()
        assert f"in one of {clusters} clusters" in capsys.readouterr().err
    assert found[3] != found[12]


def test_scikit_activeml_covers_the_same() -> None:
    """It tries radii 0.2, 0.4, ..., 2.0 and takes a point on the surface into a ball, so that its radius is ours
    rounded down. After full coverage it draws, so the picks are compared up to there. It breaks ties at random, so each
    of its picks must gain as much as ours, and covering goes on from its pick."""

    class Halves:
        """Clusters of the first coordinate's sign."""

        def __init__(self, n_clusters: int) -> None:
            pass

        def fit_predict(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
            return (X[:, 0] > 0).astype(int)

    points = normalized(normal(80, 4))
    labels = np.full(80, np.nan)
    labels[:3] = 0
    query = ProbCover(cluster_algo=Halves, alpha=0.6, random_state=0)
    picks, utilities = query.query(points.numpy(), labels, batch_size=12, return_utilities=True)
    radius = pure_radius(points, (points[:, 0] > 0).long(), 0.6)
    assert query.delta_max_ == pytest.approx(math.floor(radius / 0.2) * 0.2)
    centers = points[:3]
    one = torch.ones(77, dtype=torch.float64)
    for step, pick in enumerate(picks):
        covered = covered_by(points[3:], centers, ball(query.delta_max_))
        gains = first_gains(points[3:], covered, one, ball(query.delta_max_))
        there = [position for position in range(77) if not np.isnan(utilities[step][position + 3])]
        assert gains[there].tolist() == utilities[step][np.array(there) + 3].tolist()
        centers = torch.cat([centers, points[pick : pick + 1]])


def test_the_number_of_classes_must_be_known() -> None:
    with pytest.raises(ValueError, match="set clusters or radius"):
        chosen("probcover", given(CIRCLE, None, 1))
    assert chosen("probcover", given(CIRCLE, None, 1), clusters=2).picks.shape == (1,)
