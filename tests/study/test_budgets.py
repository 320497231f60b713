"""Budgets count what is bought, and must fit the pool."""

from __future__ import annotations

from typing import Any

import pytest

from lplgrad.study.budgets import Budget, Start, pool_problem


@pytest.mark.parametrize(
    ("start", "labels", "bought"),
    [
        ({}, 30, [10, 20, 30]),
        ({"size": 15}, 35, [15, 25, 35]),
        ({"size": 3, "draw": "stratified"}, 13, [3, 13]),
        ({"size": 40}, 40, [40]),
        ({"size": 10}, 10, [10]),
    ],
)
def test_what_rounds_have_bought(start: dict[str, Any], labels: int, bought: list[int]) -> None:
    budget = Budget(query_size=10, labels=labels, start=Start(**start))
    assert [budget.bought(number) for number in range(1, budget.rounds + 1)] == bought


def test_the_last_query_of_a_start_of_its_own_must_find_its_candidates() -> None:
    """It finds 60 - 25 unlabelled images."""
    fits, asks_too_much = (
        Budget(query_size=10, labels=35, start=Start(size=15), candidates=candidates) for candidates in (35, 36)
    )
    assert pool_problem(fits, 60) is None
    assert pool_problem(asks_too_much, 60) == (
        "candidates",
        "36 is more than the 35 examples that the last query finds unlabelled, of 60 in the pool; lower it, or set it "
        "to all",
    )
