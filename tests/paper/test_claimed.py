"""The values that a claim is about, wherever a trial was stopped."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from lplgrad.analysis.trained import trained
from lplgrad.paper import claimed
from lplgrad.paper.claimed import Measured
from tests.made_up_study import by_tens, stopping, study


def stopped_study(rounds: int = 10, last: int = 4, everywhere: bool = False) -> pd.DataFrame:
    """lplgrad one point ahead everywhere, with seeds that differ; its first seed (or all of them) stopped early."""
    frame = study(rounds=rounds)
    frame = frame.assign(accuracy=0.5 + 0.03 * frame["round"] + 0.01 * (frame["strategy"] == "lplgrad"))
    for seed in (1, 2, 3, 4, 5) if everywhere else (1,):
        frame = stopping(frame, "lplgrad", seed, last)
    return frame


class TestClaimed:
    """What a claim is about lies at the same labels for both strategies, wherever either was stopped."""

    @pytest.mark.parametrize("everywhere", [False, True])
    def test_stopped_trials_are_compared_at_the_labels_of_the_budget(self, everywhere: bool) -> None:
        measured = Measured(stopped_study(everywhere=everywhere), by_tens)
        one, other = (
            {at: claimed.values(measured, "small", "digits", name, "accuracy", at) for at in POINTS}
            for name in ("lplgrad", "random")
        )
        for at in POINTS:
            assert list(one[at]) == list(other[at]), at
            for point in one[at]:
                assert (one[at][point] - other[at][point]).tolist() == pytest.approx([1.0] * 5), (at, point)
        assert list(one["fractions"]) == ["1/3 of the labels"], "half of the 100 labels is beyond 40"
        assert one["first_half"] == one["second_half"] == one["last"] == {}
        assert list(one["queried"]) == ["20 labels", "30 labels", "40 labels"]

    def test_halves_are_those_of_the_budget(self) -> None:
        measured = Measured(stopped_study(last=6), by_tens)
        found = claimed.values(measured, "small", "digits", "random", "accuracy", "first_half")
        assert found["first half"].tolist() == pytest.approx([100 * (0.5 + 0.03 * 3.5)] * 5)
        assert claimed.values(measured, "small", "digits", "random", "accuracy", "second_half") == {}

    def test_a_seed_without_a_number_is_no_pair(self) -> None:
        """Seed 5 of random is labelled in other steps than all others."""
        frame = study(rounds=4)
        odd = (frame["strategy"] == "random") & (frame["seed"] == 5) & (frame["round"] == 3)
        frame.loc[odd, "labels"] = 35
        found = claimed.values(Measured(frame, by_tens), "small", "digits", "random", "accuracy", "second_half")
        assert list(found["second half"].index) == [1, 2, 3, 4]

    def test_seconds_are_those_of_whole_trials(self) -> None:
        frame = study(rounds=4)
        timings = frame.assign(train_seconds=10.0, query_seconds=np.where(frame["round"] < 4, 2.0, np.nan))
        of = {name: (timings["strategy"] == name) & (timings["round"] == 3) for name in ("lplgrad", "random")}
        timings.loc[of["lplgrad"] & (timings["seed"] == 1), "train_seconds"] = math.nan
        timings.loc[of["lplgrad"] & (timings["seed"] == 2), "query_seconds"] = math.nan
        timings.loc[of["lplgrad"] & (timings["seed"] == 3), "train_seconds"] = 0.0  # it was stopped
        timings = timings[~(of["random"] & (timings["seed"] == 4))]
        measured = Measured(frame, by_tens, trained(timings, timings["train_seconds"] == 0))
        for name, seeds in (("lplgrad", [4, 5]), ("random", [1, 2, 3, 5])):
            for measure, seconds in (("train_seconds", 40), ("query_seconds", 6)):
                found = claimed.values(measured, "small", "digits", name, measure, "queried")[""]
                assert found.to_dict() == dict.fromkeys(seeds, seconds)


POINTS: list[str | int] = [
    "queried", "first", "last", "first_half", "second_half", "fractions", "area", 30, 90,
]  # fmt: skip
