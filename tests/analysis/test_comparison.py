"""Comparisons of strategies: by hand, and where a trial was stopped."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from scipy import stats

from lplgrad.analysis import comparison, curves
from lplgrad.analysis.statistics import statistics
from lplgrad.report import comparison_figures
from lplgrad.report import statistics as report
from tests.made_up_study import BROKEN, NAMES, STUDY, TWO, stopping, study, study_of, trial, without

WILCOXON = ("p_wilcoxon", "p_wilcoxon_floor")


class TestComparison:
    def test_differences_are_scipys_paired_test_of_the_areas(self) -> None:
        frame = study()
        areas = curves.areas(frame)
        found = comparison.area_differences(areas, NAMES, "lplgrad").set_index(["strategy", "baseline"])
        wide = areas.pivot(index="seed", columns="strategy", values="area")
        for other in ("entropy", "random"):
            row = found.query("strategy == 'lplgrad' and baseline == @other").iloc[0].to_dict()
            theirs = stats.ttest_rel(wide["lplgrad"], wide[other])
            interval = theirs.confidence_interval()
            assert [row["p"], row["low"], row["high"]] == pytest.approx([theirs.pvalue, interval.low, interval.high])
        assert found["family"].tolist() == [True, True, False]
        family = found.loc["lplgrad"]
        assert family["p_holm"].max() == pytest.approx(max(2 * family["p"].min(), family["p"].max()))
        assert found["p_holm"].isna().tolist() == [False, False, True]

    def test_pairing_is_what_finds_the_difference(self) -> None:
        wide = curves.areas(study(gain=0.7)).pivot(index="seed", columns="strategy", values="area")
        unpaired = stats.ttest_ind(wide["lplgrad"], wide["random"]).pvalue
        paired = comparison.compare(wide["lplgrad"], wide["random"], power=False)
        assert paired is not None
        assert paired["p"] < 0.05 < unpaired

    def test_the_family_spans_data_sets_and_budgets(self) -> None:
        frame = study(panels=(("small", "digits"), ("large", "digits"), ("small", "other")))
        found = comparison.area_differences(curves.areas(frame), NAMES, "lplgrad")
        smallest = found.loc[found["family"], "p"].min()
        assert found["p_holm"].min() == pytest.approx(min(6 * smallest, 1))

    def test_a_seed_that_one_of_them_lacks_is_left_out(self) -> None:
        frame = study().query("not (strategy == 'random' and seed == 3)")
        found = comparison.area_differences(curves.areas(frame), NAMES, "lplgrad").set_index(["strategy", "baseline"])
        assert found["seeds"].to_dict() == {
            ("lplgrad", "entropy"): 5,
            ("lplgrad", "random"): 4,
            ("entropy", "random"): 4,
        }

    def test_ties_everywhere(self) -> None:
        frame = study().assign(accuracy=0.5)
        row = comparison.area_differences(curves.areas(frame), NAMES, "lplgrad").iloc[0]
        assert row["difference"] == 0
        assert row[["low", "high", "p", "p_holm", "p_wilcoxon", "g", "detectable"]].isna().all()

    @pytest.mark.parametrize(
        ("name", "known"),
        [
            ("one seed", set()),
            ("two seeds", {"std", "low", "high", "t", "p", "p_holm", *WILCOXON, "detectable", "seeds_needed"}),
            ("ties everywhere", {"std"}),
            ("the same difference", {"std", *WILCOXON, "g"}),
        ],
    )  # fmt: skip
    def test_what_cannot_be_computed_is_empty(self, name: str, known: set[str]) -> None:
        """As docs/statistics.md says of one seed, two seeds and differences that do not vary."""
        found = comparison.area_differences(curves.areas(BROKEN[name]()), NAMES, "lplgrad")
        row = found[found["family"]].iloc[0]
        always = {"budget", "dataset", "strategy", "baseline", "seeds", "difference", "family"}
        assert set(row[row.notna()].index) == always | known

    def test_round_1_is_compared_between_recipes_only(self) -> None:
        first = comparison.round_differences(study(), NAMES).query("labels == 10")
        assert set(zip(first["strategy"], first["baseline"], strict=True)) == {
            ("lplgrad", "entropy"), ("lplgrad", "random"),
        }  # fmt: skip

    def test_one_seed_wins_nothing_and_loses_nothing(self) -> None:
        frame = study(seeds=1)
        found = statistics(frame, NAMES)
        assert found.penalties[["wins", "share"]].isna().all(axis=None)
        part = next(part for part in report.parts(found, frame, STUDY) if part.heading.startswith("Wins"))
        assert {cell for row in part.rows for cell in row[1:]} == {"–"}
        texts = {text.get_text() for text in comparison_figures.penalties(STUDY, frame).axes[0].texts}
        assert texts == {"–"}
        plt.close("all")

    def test_who_is_absent_somewhere_is_beaten_no_less(self) -> None:
        """lplgrad beats the two others everywhere; that random is missing on one of two data sets is none of its
        merit."""
        frame = study(panels=TWO, gain=10)
        found = statistics(without(frame, "budget == 'large' and strategy == 'random'"), NAMES)
        beaten = found.penalties.set_index(["strategy", "baseline"]).loc["lplgrad"]
        assert beaten["wins"].tolist() == [2, 1]
        assert beaten["share"].tolist() == [1, 1]
        part = next(p for p in report.parts(found, frame, study_of(frame)) if p.heading.startswith("Wins"))
        assert part.rows[0] == ("LPLgrad", "–", "1.00", "1.00\nof 1")

    def test_ranks_rest_on_the_seeds_that_all_have(self) -> None:
        """entropy lacks seed 3, in which everybody did badly: that makes it no better."""
        frame = study(panels=TWO)
        hard = frame["accuracy"].where(frame["seed"] != 3, frame["accuracy"] - 0.4)
        frame = frame.assign(accuracy=hard - 0.05 * (frame["strategy"] == "entropy"))
        lacking = without(frame, "strategy == 'entropy' and seed == 3")
        means, seeds = comparison.block_means(curves.areas(lacking))
        assert seeds.tolist() == [4, 4]
        assert (means["entropy"] < means["random"]).all()
        text = report.rank_text(statistics(lacking, NAMES), study_of(lacking))
        assert "averaged over 2 blocks (each budget and data set is one), in each over the 4 seeds that all" in text

    def test_a_panel_without_a_common_seed_is_no_block(self) -> None:
        frame = without(study(2, panels=TWO), "budget == 'large' and (strategy == 'random') == (seed == 1)")
        found = statistics(frame, NAMES)
        assert found.ranking.blocks == 1
        assert "No block, because the strategies have no seed in common: Digits (8x8), large" in report.rank_text(
            found, study_of(frame)
        )

    def test_random_is_named_so_where_several_label_at_random(self) -> None:
        frame = study().assign(acquisition="random")
        assert comparison.random_of(frame) == "random"
        assert comparison.random_of(frame.query("strategy != 'random'")) == "lplgrad"
        assert comparison.random_of(frame.assign(acquisition="entropy")) is None

    def test_penalties_by_hand(self) -> None:
        """lplgrad wins at 2 of 3 numbers of labels in one panel and at 1 of 3 in the other; round 1 does not count."""
        rows = []
        for dataset, p_values in (("a", (0.01, 0.04, 0.06)), ("b", (0.001, 0.9, 0.5))):
            rows += [
                {"budget": "small", "dataset": dataset, "labels": labels, "strategy": "lplgrad", "baseline": "random",
                 "seeds": 5, "difference": 1.0, "p": p}
                for labels, p in zip((10, 20, 30, 40), (0.0001, *p_values), strict=True)
            ]  # fmt: skip
        first = pd.DataFrame([{"budget": "small", "dataset": name, "labels": 10} for name in "ab"])
        found = comparison.penalties(pd.DataFrame(rows), first, ["lplgrad", "random"]).set_index("strategy")
        assert found["wins"].to_dict() == pytest.approx({"lplgrad": 2 / 3 + 1 / 3, "random": 0})
        assert found["panels"].tolist() == [2, 2]
        assert found["chance"].tolist() == [0.05, 0.05]

    def test_rounds_by_hand(self) -> None:
        found = comparison.rounds(pd.DataFrame(trial(50, 60) + trial(54, 70, seed=2))).iloc[1]
        half = stats.t.ppf(0.975, 1) * math.sqrt(50) / math.sqrt(2)
        assert found[["mean", "std", "low", "high"]].tolist() == pytest.approx(
            [65, math.sqrt(50), 65 - half, 65 + half]
        )


class TestStopped:
    """A seed that reaches its target accuracy is gone afterwards: what is left over are the seeds that did badly."""

    FRAME = stopping(study(rounds=6), "lplgrad", 2, 4)

    def test_the_rounds_end_with_the_first_trial(self) -> None:
        whole = comparison.rounds(study(rounds=6))
        found = comparison.rounds(self.FRAME)
        assert sorted(set(found["labels"])) == [10, 20, 30, 40]
        assert (found["seeds"] == 5).all()
        assert found["mean"].tolist() == whole[whole["labels"] <= 40]["mean"].tolist()

    def test_so_do_differences_and_wins(self) -> None:
        of_rounds = comparison.round_differences(self.FRAME, NAMES)
        assert (of_rounds["seeds"].min(), of_rounds["labels"].max()) == (5, 40)
        four = study(rounds=6).query("round <= 4")
        first = comparison.first_labels(four)
        wins = comparison.penalties(of_rounds, first, NAMES)
        assert wins.equals(comparison.penalties(comparison.round_differences(four, NAMES), first, NAMES))
