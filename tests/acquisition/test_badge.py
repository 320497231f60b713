"""BADGE against embeddings that are written out, values worked by hand, and scikit-activeml."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import chisquare
from skactiveml import base, pool
from torch import Tensor

from lplgrad.acquisition import Candidates, choice_of
from lplgrad.acquisition._residuals import residuals
from lplgrad.acquisition.badge import ACQUISITION, Embeddings, Options, seeding
from tests.acquisition.scikit_activeml import Given

Floats = npt.NDArray[np.float64]


def random_candidates(examples: int = 40, classes: int = 5, size: int = 6, query_size: int = 8) -> Candidates:
    draw = torch.Generator().manual_seed(examples)
    logits, features = torch.randn(examples, classes, generator=draw) * 3, torch.randn(examples, size, generator=draw)
    measured = {"logits": logits, "features": features}
    return Candidates(np.arange(0, 3 * examples, 3), 1, 2, query_size, measured)


def line() -> Candidates:
    """Four candidates of two classes with one feature, whose embeddings lie on a line."""
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)
    features = torch.tensor([[1.0], [2.0], [-1.0], [3.0]])
    return Candidates(np.arange(4), 1, 1, 2, {"logits": probabilities.log(), "features": features})


def embeddings_of(given: Candidates, bias: bool = False) -> Embeddings:
    return Embeddings(residuals(given["logits"]), given["features"].double(), bias)


def chosen(given: Candidates, bias: bool = False) -> list[int]:
    """What is chosen, as positions in the pool, in order."""
    return given.indices[choice_of(ACQUISITION, given, Options(bias=bias)).picks].tolist()  # type: ignore[no-any-return]


def written_out(given: Candidates, bias: bool = False) -> Tensor:
    """The gradients of the loss at the predicted class by autograd, shape (S, C D) or (S, C (D + 1))."""
    features, logits = given["features"].double(), given["logits"].double()
    if bias:
        features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    weights = torch.zeros(len(logits), logits.shape[1], features.shape[1]).double().requires_grad_()
    outputs = (weights * features[:, None]).sum(dim=2) + logits
    loss = torch.nn.functional.cross_entropy(outputs, logits.argmax(dim=1), reduction="sum")
    return torch.autograd.grad(loss, weights)[0].flatten(1)


def seeding_by_brute_force(points: Floats, uniforms: Floats) -> list[int]:
    """The seeding as it is defined: in every step all distances to all picks."""
    picks = [int((points**2).sum(axis=1).argmax())]
    for uniform in uniforms:
        squared = ((points[:, None] - points[None, picks]) ** 2).sum(axis=2).min(axis=1)
        probabilities = squared / squared.sum()
        picks.append(int((probabilities.cumsum() > uniform).argmax()))
    return picks


def test_lengths_distances_and_probabilities_by_hand() -> None:
    embeddings = embeddings_of(line())
    assert embeddings.squares.tolist() == pytest.approx([0.5, 0.08, 0.32, 4.5])
    distances = embeddings.distances(3)
    assert distances.tolist() == pytest.approx([2, 3.38, 7.22, 0])
    assert distances[3] == 0
    assert (distances / distances.sum()).tolist() == pytest.approx([0.1587, 0.2683, 0.5730, 0], abs=5e-5)
    choice = choice_of(ACQUISITION, line(), Options())
    assert choice.picks[0] == 3
    assert choice.scores is not None
    assert choice.scores.tolist() == pytest.approx([0.5**0.5, 0.08**0.5, 0.32**0.5, 4.5**0.5])


@pytest.mark.parametrize("bias", [False, True])
def test_lengths_and_distances_are_those_of_gradients_by_autograd(bias: bool) -> None:
    given = random_candidates()
    embeddings, points = embeddings_of(given, bias), written_out(given, bias)
    torch.testing.assert_close(embeddings.squares, points.square().sum(dim=1), rtol=1e-12, atol=0)
    for point in range(len(points)):
        expected = (points - points[point]).square().sum(dim=1)
        torch.testing.assert_close(embeddings.distances(point), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_the_picks_are_those_of_brute_force(bias: bool, seed: int) -> None:
    given = random_candidates(examples=30 + seed)
    uniforms = np.random.default_rng(seed).random(12)
    expected = seeding_by_brute_force(written_out(given, bias).numpy(), uniforms)
    assert seeding(embeddings_of(given, bias), uniforms) == expected


@pytest.mark.parametrize("seed", range(5))
def test_scikit_activeml_picks_the_same_from_the_same_random_numbers(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It draws one number for every pick after the first too. Version 1.0.1 treats the origin as a further pick: it
    starts the minimum of the distances with the squared lengths. So the two agree if all points are nearer to the first
    pick than to the origin."""
    monkeypatch.setattr(base, "check_random_state", lambda *ignored: np.random.RandomState(seed))
    draw = torch.Generator().manual_seed(seed)
    logits, features = torch.randn(50, 5, generator=draw) * 0.3, torch.randn(50, 6, generator=draw) * 0.5 + 4
    logits[:, 0] = logits.amax(dim=1) + 0.5
    given = Candidates(np.arange(50), 1, 1, 15, {"logits": logits, "features": features})
    embeddings = embeddings_of(given)
    picks = seeding(embeddings, np.random.RandomState(seed).random_sample(14))
    assert (embeddings.distances(picks[0]) <= embeddings.squares).all()
    other = Given(logits.double().softmax(dim=1).numpy(), features.double().numpy())
    expected, utilities = other.query(pool.Badge(clf_embedding_flag_name="embed"), 15, return_utilities=True)
    assert picks == expected
    nearest = torch.stack([embeddings.distances(pick) for pick in picks[:-1]]).amin(dim=0)
    probabilities = np.delete((nearest / nearest.sum()).numpy(), expected[:-1])
    np.testing.assert_allclose(np.delete(utilities[-1], expected[:-1]), probabilities, rtol=1e-6)


def test_scikit_activeml_takes_the_origin_for_a_pick() -> None:
    """Its probabilities of the second pick are those of the squared lengths, where these are below the distances."""
    other = Given(line()["logits"].softmax(dim=1).numpy(), line()["features"].double().numpy())
    picks, utilities = other.query(pool.Badge(clf_embedding_flag_name="embed"), 2, return_utilities=True)
    assert picks[0] == 3
    assert utilities[1][:3].tolist() == pytest.approx([0.5 / 0.9, 0.08 / 0.9, 0.32 / 0.9])


def test_second_picks_have_the_probabilities_of_their_distances() -> None:
    embeddings = embeddings_of(line())
    second = [seeding(embeddings, np.array([uniform]))[1] for uniform in (np.arange(1000) + 0.5) / 1000]
    assert np.bincount(second, minlength=4).tolist() == pytest.approx([158.7, 268.3, 573.0, 0], abs=1)
    drawn = [chosen(replace(line(), seed=seed))[1] for seed in range(600)]
    expected = np.array([2, 3.38, 7.22]) / 12.6
    assert chisquare(np.bincount(drawn, minlength=4)[:3], expected * 600).pvalue > 0.01


def with_copies(query_size: int) -> Candidates:
    """Two clusters of ten copies each, far apart."""
    logits = torch.tensor([[0.3, 0.0, 0.1], [0.0, 0.0, 0.7]]).repeat_interleave(10, dim=0)
    features = torch.tensor([[3.7, 0.1, 2.3], [0.2, -5.1, 0.9]]).repeat_interleave(10, dim=0)
    return Candidates(np.arange(20), 1, 1, query_size, {"logits": logits, "features": features})


def test_copies_have_the_distance_zero_and_are_picked_last_at_random() -> None:
    assert not embeddings_of(with_copies(2)).distances(3)[:10].any()
    thirds = set()
    for seed in range(60):
        picks = chosen(replace(with_copies(20), seed=seed))
        assert {pick // 10 for pick in picks[:2]} == {0, 1}
        assert sorted(picks) == list(range(20))
        thirds.add(picks[2])
    assert len(thirds) > 12


def test_copies_of_many_numbers_are_at_no_distance_though_sums_are_rounded() -> None:
    """For 100 classes and 512 features, the squared distance of copies is rounding, about 1e-16 of their lengths."""
    draw = torch.Generator().manual_seed(0)
    logits, features = torch.randn(20, 100, generator=draw), torch.randn(20, 512, generator=draw)
    embeddings = Embeddings(residuals(logits.repeat(3, 1)), features.repeat(3, 1).double())
    for point in range(60):
        assert (embeddings.distances(point) == 0).nonzero()[:, 0].tolist() == [
            point % 20 + more for more in (0, 20, 40)
        ]


def test_certain_predictions_are_at_the_origin_and_can_be_picked() -> None:
    logits = torch.tensor([[0.0, 0.0], [1e4, -1e4], [-1e4, 1e4], [0.0, 0.1]])
    features = torch.tensor([[2.0, 0.0], [5.0, 5.0], [1.0, 0.0], [2.0, 0.0]])
    given = Candidates(np.arange(4), 1, 1, 2, {"logits": logits, "features": features})
    distances = embeddings_of(given).distances(0)
    assert distances[1:3].tolist() == [2.0, 2.0]
    assert {chosen(replace(given, seed=seed))[1] for seed in range(30)} >= {1, 2}


def test_candidates_that_are_all_certain_are_drawn_uniformly() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]]).expand(12, 3)
    given = Candidates(np.arange(12), 1, 1, 12, {"logits": logits, "features": torch.randn(12, 2)})
    orders = np.array([chosen(replace(given, seed=seed)) for seed in range(200)])
    assert (np.sort(orders, axis=1) == np.arange(12)).all()
    assert not orders[:, 0].any(), "the first is the lowest index"
    assert chisquare(np.bincount(orders[:, 1], minlength=12)[1:]).pvalue > 0.01


@pytest.mark.parametrize("bias", [False, True])
def test_the_picks_of_a_small_query_are_the_first_of_a_larger_one(bias: bool) -> None:
    everything = chosen(random_candidates(query_size=40), bias)
    assert sorted(everything) == random_candidates().indices.tolist()
    for size in (0, 1, 2, 17):
        assert chosen(random_candidates(query_size=size), bias) == everything[:size]


def test_the_order_of_candidates_does_not_matter() -> None:
    given = random_candidates(query_size=30)
    order = np.random.default_rng(0).permutation(40)
    measured = {need: given[need][torch.from_numpy(order)] for need in ("logits", "features")}
    moved = replace(given, indices=given.indices[order], measured=measured)
    assert chosen(moved) == chosen(given)
    one, other = choice_of(ACQUISITION, moved, Options()).scores, choice_of(ACQUISITION, given, Options()).scores
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other[order], rtol=1e-6)


def test_neither_rotations_nor_scales_of_features_matter_nor_constants_of_logits() -> None:
    given = random_candidates(query_size=20)
    logits, features = given["logits"].double(), given["features"].double()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    turned = {"logits": logits + 7.0, "features": 0.01 * features @ rotation}
    assert chosen(replace(given, measured=turned)) == chosen(given)
    scaled = embeddings_of(replace(given, measured={"logits": logits, "features": 3 * features}))
    torch.testing.assert_close(scaled.distances(2), 9 * embeddings_of(given).distances(2))
    classes = [4, 2, 0, 1, 3]
    assert chosen(replace(given, measured={"logits": logits[:, classes], "features": features})) == chosen(given)


def test_the_predicted_class_gives_the_shortest_embedding() -> None:
    logits = random_candidates()["logits"].double()
    shortest = residuals(logits).norm(dim=1)
    of_classes = (logits.softmax(dim=1)[:, None] - torch.eye(5)).norm(dim=2)
    torch.testing.assert_close(of_classes.amin(dim=1), shortest)


def test_seed_and_round_draw() -> None:
    given = random_candidates(query_size=10)
    orders = [chosen(one) for one in (given, replace(given, seed=2), replace(given, round_number=3))]
    assert len({tuple(order) for order in orders}) == 3
    assert len({order[0] for order in orders}) == 1
