"""Acquisition functions over several predictions: values worked by hand, bounds and ties."""

import math

import numpy as np
import pytest
import torch

from lplgrad.acquisition import Candidates, bald, choice_of, variation_ratio
from lplgrad.acquisition._samples import Options


def candidates(probabilities: object, seed: int = 1, query_size: int = 1) -> Candidates:
    """Candidates with the given predictions, shape (S, N, C)."""
    logits = torch.tensor(probabilities, dtype=torch.float64).log()
    return Candidates(np.arange(len(logits)), seed, 1, query_size, {"member_logits": logits})


FIVE = [(0.9, 0.1), (0.9, 0.1), (0.2, 0.8), (0.9, 0.1), (0.4, 0.6)]
OPPOSED = [(1.0, 1e-300), (1e-300, 1.0)]


def test_by_hand() -> None:
    assert bald.score(candidates([FIVE]), Options()).item() == pytest.approx(0.2113, abs=5e-5)
    assert variation_ratio.score(candidates([FIVE]), Options()).item() == pytest.approx(0.4)
    assert bald.score(candidates([OPPOSED]), Options()).item() == pytest.approx(math.log(2))
    assert variation_ratio.score(candidates([OPPOSED]), Options()).item() == 0.5


def test_votes() -> None:
    votes = torch.eye(5)[[4, 1, 4, 4, 3]] * 0.5 + 0.1
    assert variation_ratio.score(candidates([votes.tolist()]), Options()).item() == pytest.approx(0.4)


def test_one_member_and_equal_members_do_not_disagree() -> None:
    predictions = torch.rand(30, 1, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=2)
    for members in (1, 3):
        same = candidates(predictions.expand(-1, members, -1).tolist())
        assert bald.score(same, Options()).abs().max() < 1e-12
        assert not variation_ratio.score(same, Options()).any()


def test_bounds_and_order_of_members() -> None:
    logits = torch.randn(50, 6, 4, generator=torch.Generator().manual_seed(0)) * 5
    measured = candidates(logits.softmax(dim=2).tolist())
    mutual = bald.score(measured, Options())
    mean = logits.double().softmax(dim=2).mean(dim=1)
    entropy = -(mean * mean.log()).sum(dim=1)
    assert (mutual >= 0).all()
    assert (mutual <= entropy + 1e-5).all()
    turned = candidates(logits.flip(1).softmax(dim=2).tolist())
    torch.testing.assert_close(bald.score(turned, Options()), mutual)
    assert torch.equal(variation_ratio.score(turned, Options()), variation_ratio.score(measured, Options()))


def test_dropout_needs_passes() -> None:
    assert bald.ACQUISITION.needs(Options(samples="dropout", passes=7)) == {"stochastic_logits": (7,)}
    assert bald.ACQUISITION.needs(Options()) == {"member_logits": None}


def test_ties_of_votes_go_by_entropy_and_then_by_seed() -> None:
    unsure, sure = [(0.6, 0.4), (0.6, 0.4)], [(0.9, 0.1), (0.9, 0.1)]
    chosen = choice_of(variation_ratio.ACQUISITION, candidates([sure, unsure, OPPOSED, sure], query_size=2), Options())
    assert chosen.picks.tolist() == [2, 1]
    first = [
        int(choice_of(variation_ratio.ACQUISITION, candidates([sure] * 10, seed=seed), Options()).picks[0])
        for seed in range(300)
    ]
    assert np.bincount(first, minlength=10).min() > 10
    again = choice_of(variation_ratio.ACQUISITION, candidates([sure] * 10, seed=5), Options())
    assert again.picks[0] == first[5]
