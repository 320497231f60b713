"""Scores of a single prediction: values worked by hand, orders, saturation, and the picks of scikit-activeml."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from skactiveml import pool
from torch import Tensor

from lplgrad import acquisition
from lplgrad.acquisition import Candidates, choice_of, scores_of
from lplgrad.acquisition.entropy import entropy
from tests.acquisition.scikit_activeml import Given

A, B, C = (0.45, 0.44, 0.11), (0.40, 0.30, 0.30), (0.55, 0.45, 0.0)
NAMES = ["entropy", "least_confidence", "margin"]


def logits_of(probabilities: object) -> Tensor:
    """Logits with these probabilities, float64; that of an impossible class is very low."""
    return torch.tensor(probabilities, dtype=torch.float64).log().clamp(min=-1e4)


def given(logits: Tensor, query_size: int = 1) -> Candidates:
    return Candidates(np.arange(len(logits)), 1, 1, query_size, {"logits": logits})


def scores(name: str, logits: Tensor, **options: Any) -> list[float]:
    function = acquisition.registry.load(name)
    assert function.score is not None
    return torch.as_tensor(function.score(given(logits), function.options(**options))).tolist()


def picks(name: str, logits: Tensor, query_size: int, **options: Any) -> list[int]:
    function = acquisition.registry.load(name)
    chosen: list[int] = choice_of(function, given(logits, query_size), function.options(**options)).picks.tolist()
    return chosen


def random_logits(classes: int, examples: int = 60, scale: float = 3.0) -> Tensor:
    draw = torch.Generator().manual_seed(classes)
    return torch.randn(examples, classes, generator=draw) * scale


def test_least_confidence_by_hand() -> None:
    assert scores("least_confidence", logits_of([A, B, C])) == pytest.approx([0.55, 0.60, 0.45])
    assert picks("least_confidence", logits_of([A, B, C]), 3) == [1, 0, 2]


def test_margin_by_hand() -> None:
    """B and C have the same margin. Their logits are rounded, so a tie is tested with copies."""
    assert scores("margin", logits_of([A, B, C])) == pytest.approx([0.99, 0.90, 0.90])
    assert picks("margin", logits_of([A, B, C]), 1) == [0]
    assert picks("margin", logits_of([B, A, B]), 3) == [1, 0, 2]
    assert scores("margin", torch.full((1, 4), -3.0)) == [1.0]


def test_margin_is_that_of_probabilities_not_of_logits() -> None:
    """The two rank these predictions in opposite orders."""
    rows = [(0.45, 0.40, 0.15, *[0.0] * 15), (0.12, 0.08, *[0.05] * 16)]
    assert scores("margin", logits_of(rows)) == pytest.approx([1 - 0.05, 1 - 0.04])
    top = logits_of(rows).topk(2, dim=1).values
    assert (top[:, 0] - top[:, 1]).tolist() == pytest.approx([0.118, 0.405], abs=5e-4)


@pytest.mark.parametrize("gap", [1.0, 20.0, 40.0, 80.0])
def test_margin_keeps_its_digits(gap: float) -> None:
    tail = math.exp(-gap)
    expected = (2 * tail + tail) / (1 + 2 * tail)
    assert scores("margin", torch.tensor([[0.0, gap, 0.0]])) == pytest.approx([expected], rel=1e-12)


def test_with_two_classes_all_orders_are_the_same() -> None:
    logits = random_logits(2)
    orders = {name: picks(name, logits, len(logits)) for name in NAMES}
    assert orders["least_confidence"] == orders["margin"] == orders["entropy"]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_least_confidence_is_highest_for_equal_probabilities(classes: int) -> None:
    assert max(scores("least_confidence", random_logits(classes))) < 1 - 1 / classes
    assert scores("least_confidence", torch.full((1, classes), 7.0)) == pytest.approx([1 - 1 / classes])


@pytest.mark.parametrize("gap", [1.0, 20.0, 36.0, 40.0, 80.0])
def test_least_confidence_keeps_its_digits(gap: float) -> None:
    """Where ``1 - p`` is 0 in float64, from a gap of 37 on, certain predictions are still ordered."""
    tail = 2 * math.exp(-gap)
    assert scores("least_confidence", torch.tensor([[gap, 0.0, 0.0]])) == pytest.approx([tail / (1 + tail)], rel=1e-12)


def test_entropy_by_hand() -> None:
    assert scores("entropy", logits_of([A, B, C])) == pytest.approx([0.963, 1.089, 0.688], abs=5e-4)
    assert picks("entropy", logits_of([A, B, C]), 3) == [1, 0, 2]


@pytest.mark.parametrize(
    ("temperature", "divided"), [(0.5, [4.0, 2.0, 0.0]), (1.0, [2.0, 1.0, 0.0]), (2.0, [1.0, 0.5, 0.0])]
)
def test_the_temperature_divides_the_logits(temperature: float, divided: list[float]) -> None:
    from scipy.stats import entropy as reference

    expected = reference(torch.tensor(divided).double().softmax(dim=0).numpy())
    found = scores("entropy", torch.tensor([[2.0, 1.0, 0.0]]), temperature=temperature)
    assert found == pytest.approx([expected], rel=1e-12)


def test_a_temperature_of_one_changes_no_bit() -> None:
    logits = random_logits(7)
    assert scores("entropy", logits, temperature=1.0) == scores("entropy", logits) == entropy(logits).tolist()


@pytest.mark.parametrize("temperature", [5e-324, 1e-9])
def test_a_low_temperature_leaves_the_ties_of_the_highest_logit(temperature: float) -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 1.0, -2.0], [3e38, -3e38, 0.0], [0.0, 0.0, 0.0]])
    assert scores("entropy", logits, temperature=temperature) == pytest.approx([0, math.log(2), 0, math.log(3)])


def test_a_high_temperature_leaves_the_variance_of_the_logits() -> None:
    logits, temperature = random_logits(6).double(), 300.0
    lost = [(math.log(6) - one) * 2 * temperature**2 for one in scores("entropy", logits, temperature=temperature)]
    assert lost == pytest.approx(logits.var(dim=1, correction=0).tolist(), rel=0.05)
    assert scores("entropy", logits, temperature=1e300) == pytest.approx([math.log(6)] * len(logits))


def test_the_temperature_can_swap_two_candidates() -> None:
    """Two equal classes against seven that are a little unlikely."""
    logits = torch.tensor([[0.0, 0.0, *[-9.0] * 6], [2.0, *[0.0] * 7]])
    assert picks("entropy", logits, 1, temperature=0.5) == [0]
    assert picks("entropy", logits, 1, temperature=1.0) == [1]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf, True, "warm"])
def test_a_temperature_is_a_positive_number(temperature: Any) -> None:
    with pytest.raises(ValueError, match="temperature"):
        scores("entropy", torch.zeros(1, 2), temperature=temperature)


@pytest.mark.parametrize("name", NAMES)
def test_an_impossible_class_and_copies_give_numbers(name: str) -> None:
    """Also in float32, in which the score is written. Of equal scores, the first candidates are chosen."""
    saturated = torch.tensor([[1e4, -1e4, -1e4], [-1e4, -1e4, 1e4], [1e4, -1e4, -1e4], [0.0, 0.0, 0.0]])
    function = acquisition.registry.load(name)
    found = scores_of(function, given(saturated), function.options())
    assert not found[:3].any()
    assert not np.signbit(found).any()
    assert picks(name, saturated, 4) == [3, 0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_neither_a_constant_nor_the_order_of_classes_matters(name: str) -> None:
    logits = random_logits(6).double()
    turned = logits[:, [3, 0, 5, 1, 2, 4]] + torch.linspace(-50, 50, len(logits)).double()[:, None]
    assert scores(name, turned) == pytest.approx(scores(name, logits), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 5])
def test_scikit_activeml_picks_the_same(name: str, classes: int) -> None:
    """Without ties, which scikit-activeml breaks at random."""
    logits = random_logits(classes)
    method = {"least_confidence": "least_confident", "margin": "margin_sampling"}.get(name, name)
    other = Given(logits.double().softmax(dim=1).numpy())
    chosen, utilities = other.query(pool.UncertaintySampling(method), 20, return_utilities=True)
    assert picks(name, logits, 20) == chosen.tolist()
    assert scores(name, logits) == pytest.approx(utilities[0].tolist(), rel=1e-9)
