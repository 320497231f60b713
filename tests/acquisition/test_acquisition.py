"""What every acquisition function must do, and what each one is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lplgrad import acquisition
from lplgrad.acquisition import Candidates, coreset, select
from lplgrad.acquisition.coreset import k_center_greedy
from lplgrad.acquisition.entropy import entropy
from lplgrad.gradient_norms import GradientNorms

ALL = acquisition.names()
SIZE, CHOSEN = 40, 7


def candidates(seed: int = 1, round_number: int = 3) -> Candidates:
    """Candidates of a round with everything that any function may need."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(SIZE, 5, generator=draw) * 3
    return Candidates(
        indices=np.sort(np.random.default_rng(0).choice(500, SIZE, replace=False)),
        seed=seed,
        round_number=round_number,
        query_size=CHOSEN,
        logits=logits,
        features=torch.randn(SIZE, 6, generator=draw),
        labeled_features=torch.randn(9, 6, generator=draw),
        predicted_loss=torch.randn(SIZE, generator=draw),
        gradient_norms=GradientNorms(
            torch.rand(SIZE, generator=draw).double(),
            torch.rand(SIZE, generator=draw).double(),
            logits,
            torch.rand(SIZE, 2, generator=draw).double(),
            ("weight", "bias"),
        ),
    )


def scores_of(name: str, given: Candidates, **options: Any) -> np.ndarray[Any, Any]:
    function = acquisition.load(name)
    return np.asarray(function.score(given, function.options(**options)))


def permuted(given: Candidates, order: np.ndarray[Any, Any]) -> Candidates:
    index = torch.from_numpy(order)
    norms = given.gradient_norms
    assert norms is not None
    assert given.logits is not None
    assert given.features is not None
    assert given.predicted_loss is not None
    return replace(
        given,
        indices=given.indices[order],
        logits=given.logits[index],
        features=given.features[index],
        predicted_loss=given.predicted_loss[index],
        gradient_norms=GradientNorms(
            norms.total[index], norms.sum[index], norms.output[index], norms.tensors[index], norms.names
        ),
    )


@pytest.mark.parametrize("name", ALL)
class TestEveryFunction:
    def test_chooses_as_many_as_asked_and_each_once(self, name: str) -> None:
        chosen = select(scores_of(name, candidates()), CHOSEN)
        assert len(set(chosen.tolist())) == CHOSEN
        assert 0 <= chosen.min() <= chosen.max() < SIZE

    def test_gives_every_candidate_a_finite_score(self, name: str) -> None:
        scores = scores_of(name, candidates())
        assert scores.shape == (SIZE,)
        assert np.isfinite(scores).all()

    def test_same_question_same_answer(self, name: str) -> None:
        assert np.array_equal(scores_of(name, candidates()), scores_of(name, candidates()))

    def test_permuting_candidates_permutes_scores(self, name: str) -> None:
        order = np.random.default_rng(3).permutation(SIZE)
        moved = scores_of(name, permuted(candidates(), order))
        np.testing.assert_allclose(moved, scores_of(name, candidates())[order], rtol=1e-5)

    def test_looks_at_nothing_but_what_it_declares(self, name: str) -> None:
        declared = acquisition.load(name).needs
        measured = {"logits", "features", "labeled_features", "predicted_loss", "gradient_norms"}
        nothing: dict[str, Any] = dict.fromkeys(measured - declared)
        bare = replace(candidates(), **nothing)
        assert np.array_equal(scores_of(name, bare), scores_of(name, candidates()))


@pytest.mark.parametrize("name", [name for name in ALL if acquisition.load(name).scores_images_alone])
def test_a_score_of_an_image_alone_does_not_depend_on_other_candidates_nor_on_the_round(name: str) -> None:
    """So that a test image, which is no candidate, can be scored too."""
    few = np.array([3, 17])
    moved = replace(permuted(candidates(), few), indices=few, seed=9, round_number=1, query_size=1)
    np.testing.assert_allclose(scores_of(name, moved), scores_of(name, candidates())[few], rtol=1e-12)


def test_neither_random_nor_coreset_scores_an_image_alone() -> None:
    assert {name for name in ALL if not acquisition.load(name).scores_images_alone} == {"coreset", "random"}


def test_no_label_of_a_candidate_can_be_read() -> None:
    assert not [field for field in Candidates.__dataclass_fields__ if field in ("labels", "targets", "y")]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_raises(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="1 of 3 scores"):
        select(np.array([1.0, bad, 2.0]), 1)


def test_ties_go_to_the_earlier_candidate() -> None:
    assert select(np.array([1.0, 3.0, 2.0, 3.0, 3.0]), 2).tolist() == [1, 3]


def test_random_depends_on_index_seed_and_round_alone() -> None:
    given = candidates()
    scores = dict(zip(given.indices.tolist(), scores_of("random", given).tolist(), strict=True))
    fewer = replace(given, indices=given.indices[::3])
    assert scores_of("random", fewer).tolist() == [scores[index] for index in fewer.indices.tolist()]
    assert not np.array_equal(scores_of("random", replace(given, round_number=4)), scores_of("random", given))
    assert not np.array_equal(scores_of("random", replace(given, seed=2)), scores_of("random", given))


def test_entropy_is_that_of_scipy() -> None:
    from scipy.stats import entropy as reference

    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 4
    expected = reference(logits.double().softmax(dim=1).numpy(), axis=1)
    np.testing.assert_allclose(entropy(logits).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("row", [[0, 0, 0], [1, 2, 3], [0, 30, 0], [5, -36, 41], [800, 0, 100], [1e4, 0, -1e4]])
def test_entropy_and_its_gradient_keep_their_digits(row: list[float]) -> None:
    """Against 400 digits of mpmath; the probabilities of the later rows underflow in float64."""
    from mpmath import mp, mpf

    with mp.workdps(400):
        weights = [mp.exp(mpf(z)) for z in row]
        p = [weight / sum(weights) for weight in weights]
        exact = -sum(q * mp.log(q) for q in p)
        slopes = [float(-q * (mp.log(q) + exact)) for q in p]
        exact = float(exact)
    logits = torch.tensor([row], dtype=torch.float64, requires_grad=True)
    found = entropy(logits)
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert found.item() == pytest.approx(exact, rel=1e-13, abs=1e-320)
    assert gradient[0].tolist() == pytest.approx(slopes, rel=1e-12, abs=1e-16 * max(map(abs, slopes)) + 1e-320)


def test_the_expected_loss_is_the_entropy() -> None:
    """Wang et al.'s other scheme, by its own formula and by autograd through the weights of the expectation."""
    logits = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = sum(
        logits.softmax(dim=1)[:, k] * torch.nn.functional.cross_entropy(logits, torch.full((9,), k), reduction="none")
        for k in range(6)
    )
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(entropy(logits), expected)
    one, other = (torch.autograd.grad(value.sum(), logits)[0] for value in (entropy(logits), expected))
    torch.testing.assert_close(one, other)


def test_gradient_norm_offers_both_norms() -> None:
    given = candidates()
    assert given.gradient_norms is not None
    assert np.array_equal(scores_of("gradient_norm", given), given.gradient_norms.total)
    assert np.array_equal(scores_of("gradient_norm", given, norm="sum"), given.gradient_norms.sum)


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
    scores = k_center_greedy(features, centers, 20).numpy()
    assert select(scores, 20).tolist() == brute_force_k_center(features, centers, 20)


@pytest.mark.parametrize("seed", range(6))
def test_coreset_with_few_candidates_watched(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most distances are out of date at any time, many images are there twice, and many distances tie."""
    monkeypatch.setattr(coreset, "WATCHED", 7)
    monkeypatch.setattr(coreset, "BLOCK", 3)
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(150, 5, generator=draw) if seed % 2 else torch.randint(-2, 3, (150, 3), generator=draw)
    features = torch.cat([features, features[:60]]).float()[torch.randperm(210, generator=draw)]
    scores = k_center_greedy(features, features[:4] * 0.5, 110).numpy()
    assert sorted(select(scores, 110).tolist()) == sorted(brute_force_k_center(features, features[:4] * 0.5, 110))


def test_coreset_scores_round_so_that_picks_stay_ahead() -> None:
    """Two candidates whose distances are one number in float32: the farther is picked, though it comes later."""
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-5]])
    assert float(features.double()[1].norm() ** 2) > 1.0
    assert select(k_center_greedy(features, torch.zeros(1, 2), 1).numpy(), 1).tolist() == [1]


def test_coreset_by_hand() -> None:
    """On a line with a center at 0: first the point at 10, then 4 (4 from 0), then 7 (3 from 4 and 10)."""
    features = torch.tensor([[1.0], [4.0], [7.0], [10.0]])
    scores = k_center_greedy(features, torch.tensor([[0.0]]), 3)
    assert scores.tolist() == [1.0, 16.0, 9.0, 100.0]


def test_coreset_with_ties_and_copies() -> None:
    """Equal images are picked once as long as others are left, then in order."""
    features = torch.tensor([[2.0], [2.0], [0.0], [2.0]])
    assert select(k_center_greedy(features, torch.tensor([[0.0]]), 3).numpy(), 3).tolist() == [0, 1, 2]
