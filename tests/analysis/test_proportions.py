"""Intervals for small test sets, against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from lplgrad.analysis.proportions import accuracy, difference


def rights(right: int, wrong: int) -> npt.NDArray[np.bool_]:
    return np.array([True] * right + [False] * wrong)


def test_wilson() -> None:
    """Wilson's formula written out, with z = 1.959964."""
    z, n, p = 1.959963984540054, 50, 38 / 50
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = accuracy(rights(38, 12))
    assert found == pytest.approx((p, middle - reach, middle + reach))


@pytest.mark.parametrize("right", [0, 20])
def test_the_interval_of_a_perfect_model_has_a_width(right: int) -> None:
    found = accuracy(rights(right, 20 - right))
    assert 0 <= found.low < found.high <= 1
    assert found.high - found.low > 0.1


def test_a_paired_difference() -> None:
    """Of 50 images, 8 were gained and 3 lost: (8 - 3) / 52 and z * sqrt(12 - 25 / 52) / 52."""
    before = np.array([True] * 3 + [False] * 8 + [True] * 39)
    after = np.array([False] * 3 + [True] * 8 + [True] * 39)
    found = difference(before, after)
    reach = 1.959963984540054 * math.sqrt(12 - 25 / 52) / 52
    assert found == pytest.approx((0.1, 5 / 52 - reach, 5 / 52 + reach))
    back = difference(after, before)
    assert back == pytest.approx((-0.1, -found.high, -found.low))


def test_equal_models_may_still_differ() -> None:
    same = rights(30, 10)
    found = difference(same, same)
    assert found.value == 0
    assert found.low < 0 < found.high


def test_a_difference_is_between_minus_one_and_one() -> None:
    assert difference(rights(0, 30), rights(30, 0)).high == 1


def test_how_often_the_intervals_contain_the_truth() -> None:
    """About 95 % of the draws; both are known to be slightly cautious for few examples."""
    draw = np.random.default_rng(0)
    draws = 2000
    hits = np.zeros(2)
    for _ in range(draws):
        before = draw.random(60) < 0.8
        after = np.where(draw.random(60) < 0.7, before, draw.random(60) < 0.9)
        truth = 0.3 * (0.9 - 0.8)
        one, two = accuracy(before), difference(before, after)
        hits += [one.low <= 0.8 <= one.high, two.low <= truth <= two.high]
    assert (hits / draws > 0.935).all()
    assert (hits / draws < 0.985).all()
