"""Learning curves: areas, labels needed and labels saved, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lplgrad.analysis import curves
from lplgrad.analysis.statistics import statistics
from lplgrad.report import statistics as report
from tests.made_up_study import NAMES, STUDY, trial


class TestCurves:
    def test_the_area_by_hand(self) -> None:
        """(50 + 70) / 2 over 10 labels and (70 + 80) / 2 over 20: (600 + 1500) / 30."""
        assert curves.normalized_area([10, 20, 40], [50.0, 70, 80]) == pytest.approx(70)
        assert curves.normalized_area([10, 20, 40], [50.0, 70, 80], 15, 30) == pytest.approx((65 * 5 + 72.5 * 10) / 15)
        assert curves.normalized_area([10, 20], np.array([[1.0, 3], [2, 2]])).tolist() == [2, 2]
        assert curves.normalized_area([10, 20], [1.0, 3], 20, 20) == 3
        with pytest.raises(ValueError, match="not within"):
            curves.normalized_area([10, 20], [1.0, 3], 5, 20)

    def test_areas_begin_with_round_2(self) -> None:
        """(70 + 80) / 2; what round 1 has does not count, since no query had a part in it."""
        for first in (0, 100):
            frame = curves.areas(pd.DataFrame(trial(first, 70, 80)))
            assert frame[["labels_from", "labels_to", "area"]].to_numpy().tolist() == [[20, 30, pytest.approx(75)]]

    def test_two_rounds_have_a_height_and_one_has_nothing(self) -> None:
        assert curves.areas(pd.DataFrame(trial(50, 70)))["area"].tolist() == [pytest.approx(70)]
        assert curves.areas(pd.DataFrame(trial(50))).empty

    def test_a_trial_with_a_gap_is_left_out_and_named(self) -> None:
        rows = trial(50, 60, 70) + [row for row in trial(50, 60, 70, seed=2) if row["round"] != 2]
        frame = pd.DataFrame(rows + trial(50, 60, seed=3))
        assert curves.areas(frame)["seed"].tolist() == [1]
        assert curves.left_out(frame)[["seed", "reason"]].to_numpy().tolist() == [
            [2, "round 2 missing"], [3, "round 3 missing"],
        ]  # fmt: skip

    def test_one_trial_that_goes_on_or_breaks_off_decides_nothing_for_the_others(self) -> None:
        for last in (5, 2):
            odd = trial(50, 60, 70, 80, 90)[:last]
            frame = pd.DataFrame(
                odd + trial(50, 60, 70, 80, seed=2) + trial(50, 60, 70, 80, seed=3)
                + [row for seed in (1, 2, 3) for row in trial(50, 55, 60, 65, seed=seed, strategy="random")]
            )  # fmt: skip
            assert (curves.areas(frame)["labels_to"] == 40).all()
            assert curves.left_out(frame)["reason"].tolist() == ["2 of 4 rounds missing"] * (last == 2)

    def test_one_strategy_alone_does_not_set_the_last_round(self) -> None:
        rows = [row for seed in (1, 2, 3) for row in trial(50, 60, 70, 80, seed=seed)] + trial(
            50, 55, 60, strategy="random"
        )
        assert curves.areas(pd.DataFrame(rows))["labels_to"].tolist() == [30] * 4
        assert curves.left_out(pd.DataFrame(rows)).empty

    def test_a_stopped_trial_shortens_the_common_range(self) -> None:
        stopped = trial(50, 60, 90, seed=2, repeats=1)
        frame = curves.areas(pd.DataFrame(trial(50, 60, 70, 80) + stopped))
        assert frame["labels_to"].tolist() == [30, 30]
        assert frame["area"].tolist() == pytest.approx([65, 75])
        at_once = trial(90, seed=2, repeats=3)
        assert curves.areas(pd.DataFrame(trial(50, 60, 70, 80) + at_once)).empty

    @pytest.mark.parametrize(
        ("target", "found"),
        [(60, (15, "")), (50, (10, "before")), (40, (10, "before")), (70, (20, "")), (80, (30, "after"))],
    )
    def test_first_reached(self, target: float, found: tuple[float, str]) -> None:
        assert curves.first_reached([10, 20, 30], [50, 70, 65], target) == found

    def test_targets_are_round_and_lie_on_the_curves(self) -> None:
        assert curves.targets(pd.DataFrame(trial(52, 70, 93))) == [60, 70, 80, 90]
        assert curves.targets(pd.DataFrame(trial(90.2, 91, 93.4))) == [91, 92, 93]
        assert curves.targets(pd.DataFrame(trial(50, 50, 50))) == []

    def test_labels_saved_are_paired(self) -> None:
        rows = trial(50, 70, 90) + trial(50, 60, 70, strategy="random")
        rows += trial(50, 90, 90, seed=2) + trial(50, 54, 74, strategy="random", seed=2)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [70]), "random").set_index("strategy")
        assert list(found.loc["lplgrad", ["labels", "saved"]]) == pytest.approx([17.5, (10 + 28 - 15) / 2])
        assert found.loc["lplgrad", "saved_bound"] == ""

    def test_who_never_gets_there_has_no_mean(self) -> None:
        """A mean over those that did would flatter whoever did so rarely."""
        rows = trial(50, 70, 90) + trial(50, 60, 65, strategy="random")
        rows += trial(50, 90, 90, seed=2) + trial(50, 54, 74, strategy="random", seed=2)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [70]), "random").set_index("strategy")
        assert list(found.loc["random", ["seeds", "reached"]]) == [2, 1]
        assert np.isnan(found.loc["random", ["labels", "median"]].astype(float)).all()
        assert found.loc["lplgrad", "saved"] == pytest.approx((10 + 28 - 15) / 2)
        assert found.loc["lplgrad", "saved_bound"] == "at least"
        assert found["saved_low"].isna()["lplgrad"]
        turned = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [70]), "lplgrad")
        assert turned.set_index("strategy").isna().loc["random", "saved"]

    def test_nothing_saved_has_no_sign(self) -> None:
        rows = trial(50, 70, 90) + trial(50, 70.4, 90, strategy="random")
        found = statistics(pd.DataFrame(rows), NAMES, [60])
        text = str(report.parts(found, pd.DataFrame(rows), STUDY))
        assert "15\\nsaves 0'" in text

    def test_the_median_of_censored_trials(self) -> None:
        rows = trial(50, 70, 90) + trial(50, 60, 90, seed=2) + trial(50, 55, 60, seed=3)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [80]), None)
        assert found["median"].tolist() == pytest.approx([20 + 20 / 30 * 10])
        assert found["labels"].isna().all()


class TestStopped:
    def test_the_median_of_labels_is_not_known_beyond_where_a_trial_ended(self) -> None:
        rows = trial(50, 60, 70, 80) + trial(50, 60, 66, 74, seed=2)
        stopped = trial(50, 65, seed=3, repeats=2)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows + stopped), [72]), None)
        assert (found["reached"].tolist(), found["median"].isna().tolist()) == ([2], [True])
