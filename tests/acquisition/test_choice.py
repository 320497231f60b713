"""How scores and sets become a choice, and what is refused; random scores."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lplgrad import acquisition
from lplgrad.acquisition import Acquisition, Candidates, Choice, random, select
from lplgrad.study.validation import NoOptions


class TestChoice:
    """What a set function returns is checked."""

    def of(self, picks: list[int], scores: list[float] | None = None) -> Choice:
        given = Candidates(np.arange(5), 1, 3, 2, {})
        found = None if scores is None else np.array(scores, dtype=np.float32)
        function = Acquisition(choose=lambda candidates, options: Choice(np.array(picks), found))
        return acquisition.choice_of(function, given, None)

    def test_the_order_of_choice_is_kept(self) -> None:
        assert self.of([4, 1]).picks.tolist() == [4, 1]
        assert self.of([4, 1]).scores is None

    @pytest.mark.parametrize(
        ("picks", "words"),
        [([1], "1 picks, 1 different ones, instead of 2"), ([1, 1], "2 picks, 1 different"), ([1, 2, 3], "3 picks"),
         ([1, 5], "2 picks, 1 different"), ([-1, 2], "2 picks, 1 different"), ([], "0 picks")],
    )  # fmt: skip
    def test_too_few_too_many_and_unknown_picks_raise(self, picks: list[int], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            self.of(picks)

    def test_scores_for_people_must_be_numbers(self) -> None:
        with pytest.raises(FloatingPointError, match="1 of 5 scores"):
            self.of([0, 1], [0, 1, math.nan, 3, 4])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_raises(bad: float) -> None:
    with pytest.raises(FloatingPointError, match="1 of 3 scores"):
        select(np.array([1.0, bad, 2.0]), 1)


def test_ties_go_to_the_earlier_candidate() -> None:
    assert select(np.array([1.0, 3.0, 2.0, 3.0, 3.0]), 2).tolist() == [1, 3]


def test_random_depends_on_index_seed_and_round_alone() -> None:
    given = Candidates(np.array([3, 8, 9, 20, 31]), 1, 3, 2, {})

    def scores_of(candidates: Candidates) -> list[float]:
        return acquisition.scores_of(random.ACQUISITION, candidates, NoOptions()).tolist()  # type: ignore[no-any-return]

    scores = dict(zip(given.indices.tolist(), scores_of(given), strict=True))
    fewer = replace(given, indices=given.indices[::3])
    assert scores_of(fewer) == [scores[index] for index in fewer.indices.tolist()]
    assert scores_of(replace(given, round_number=4)) != scores_of(given)
    assert scores_of(replace(given, seed=2)) != scores_of(given)
