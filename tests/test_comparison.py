"""From measurements to comparisons: by hand, and on measurements that lack something."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from lplgrad.configuration import read_study
from lplgrad.errors import UserError
from lplgrad.report import comparison_figures, models, style
from lplgrad.report import statistics as report
from lplgrad.report.document import document
from lplgrad.settings import StudyFile
from lplgrad.statistics import comparison, curves

HOME = Path(__file__).parents[1]
STUDY = StudyFile(study=read_study([HOME / "config.yaml", HOME / "tests" / "tiny.yaml"]))
NAMES = ["lplgrad", "entropy", "random"]
RECIPES = {"lplgrad": "joint", "entropy": "plain", "random": "plain"}
ACQUISITIONS = {"lplgrad": "gradient_norm", "entropy": "entropy", "random": "random"}
WILCOXON = ("p_wilcoxon", "p_wilcoxon_floor")
# Over tests/tiny.yaml: the study whose measurements ``study`` makes.
OVERLAY = {"run": {"seeds": [1, 2, 3, 4, 5]}, "datasets": {"digits": {"budgets": {"small": {"labels": 40}}}}}


def study(
    seeds: int = 5, rounds: int = 4, panels: tuple[tuple[str, str], ...] = (("small", "digits"),), gain: float = 1.0
) -> pd.DataFrame:
    """Measurements with luck that strategies of a seed share; lplgrad is ``gain`` points better."""
    generator = np.random.default_rng(1)
    rows = []
    for budget, dataset in panels:
        shared = generator.normal(scale=2, size=(seeds, rounds))
        for name in NAMES:
            own = generator.normal(scale=0.5, size=(seeds, rounds))
            own[:, 0] = 0
            for seed in range(seeds):
                for number in range(rounds):
                    points = 50 + 8 * number + shared[seed, number] + own[seed, number] + gain * (name == "lplgrad")
                    rows.append(
                        {
                            "budget": budget, "dataset": dataset, "strategy": name, "recipe": RECIPES[name],
                            "acquisition": ACQUISITIONS[name], "seed": seed + 1,
                            "round": number + 1, "labels": 10 * (number + 1), "accuracy": points / 100,
                            "train_loss": 1.0, "stopped": False, "torch": "2",
                        }
                    )  # fmt: skip
    return pd.DataFrame(rows)


def chain(*accuracies: float, strategy: str = "lplgrad", seed: int = 1, labels: int = 10) -> list[dict[str, Any]]:
    """The rows of one chain, accuracies in percent."""
    return [
        {
            "budget": "small", "dataset": "digits", "strategy": strategy, "recipe": RECIPES[strategy],
            "acquisition": strategy, "seed": seed, "round": number, "labels": labels * number,
            "accuracy": accuracy / 100, "stopped": False,
        }
        for number, accuracy in enumerate(accuracies, start=1)
    ]  # fmt: skip


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
            frame = curves.areas(pd.DataFrame(chain(first, 70, 80)))
            assert frame[["labels_from", "labels_to", "area"]].to_numpy().tolist() == [[20, 30, pytest.approx(75)]]

    def test_two_rounds_have_a_height_and_one_has_nothing(self) -> None:
        assert curves.areas(pd.DataFrame(chain(50, 70)))["area"].tolist() == [pytest.approx(70)]
        assert curves.areas(pd.DataFrame(chain(50))).empty

    def test_a_chain_with_a_gap_is_left_out_and_named(self) -> None:
        rows = chain(50, 60, 70) + [row for row in chain(50, 60, 70, seed=2) if row["round"] != 2]
        frame = pd.DataFrame(rows + chain(50, 60, seed=3))
        assert curves.areas(frame)["seed"].tolist() == [1]
        assert curves.left_out(frame)[["seed", "reason"]].to_numpy().tolist() == [
            [2, "round 2 missing"], [3, "round 3 missing"],
        ]  # fmt: skip
        frame.loc[1, "accuracy"] = math.nan
        assert len(curves.left_out(frame)) == 3, "a value that is missing is a round that is missing"

    def test_one_chain_that_goes_on_or_breaks_off_decides_nothing_for_the_others(self) -> None:
        for last in (5, 2):
            odd = chain(50, 60, 70, 80, 90)[:last]
            frame = pd.DataFrame(
                odd + chain(50, 60, 70, 80, seed=2) + chain(50, 60, 70, 80, seed=3)
                + [row for seed in (1, 2, 3) for row in chain(50, 55, 60, 65, seed=seed, strategy="random")]
            )  # fmt: skip
            assert (curves.areas(frame)["labels_to"] == 40).all()
            assert curves.left_out(frame)["reason"].tolist() == ["2 of 4 rounds missing"] * (last == 2)

    def test_one_strategy_alone_does_not_set_the_last_round(self) -> None:
        rows = [row for seed in (1, 2, 3) for row in chain(50, 60, 70, 80, seed=seed)] + chain(
            50, 55, 60, strategy="random"
        )
        assert curves.areas(pd.DataFrame(rows))["labels_to"].tolist() == [30] * 4
        assert curves.left_out(pd.DataFrame(rows)).empty

    def test_a_stopped_chain_shortens_the_common_range(self) -> None:
        stopped = chain(50, 60, 90, 90, seed=2)
        stopped[3] |= {"stopped": True, "labels": 30}
        frame = curves.areas(pd.DataFrame(chain(50, 60, 70, 80) + stopped))
        assert frame["labels_to"].tolist() == [30, 30]
        assert frame["area"].tolist() == pytest.approx([65, 75])
        at_once = [{**row, "stopped": row["round"] > 1, "labels": 10} for row in chain(90, 90, 90, 90, seed=2)]
        assert curves.areas(pd.DataFrame(chain(50, 60, 70, 80) + at_once)).empty

    @pytest.mark.parametrize(
        ("target", "found"),
        [(60, (15, "")), (50, (10, "before")), (40, (10, "before")), (70, (20, "")), (80, (30, "after"))],
    )
    def test_first_reached(self, target: float, found: tuple[float, str]) -> None:
        assert curves.first_reached([10, 20, 30], [50, 70, 65], target) == found

    def test_targets_are_round_and_lie_on_the_curves(self) -> None:
        assert curves.targets(pd.DataFrame(chain(52, 70, 93))) == [60, 70, 80, 90]
        assert curves.targets(pd.DataFrame(chain(90.2, 91, 93.4))) == [91, 92, 93]
        assert curves.targets(pd.DataFrame(chain(50, 50, 50))) == []

    def test_labels_saved_are_paired(self) -> None:
        rows = chain(50, 70, 90) + chain(50, 60, 70, strategy="random")
        rows += chain(50, 90, 90, seed=2) + chain(50, 54, 74, strategy="random", seed=2)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [70]), "random").set_index("strategy")
        assert list(found.loc["lplgrad", ["labels", "saved"]]) == pytest.approx([17.5, (10 + 28 - 15) / 2])
        assert found.loc["lplgrad", "saved_bound"] == ""

    def test_who_never_gets_there_has_no_mean(self) -> None:
        """A mean over those that did would flatter whoever did so rarely."""
        rows = chain(50, 70, 90) + chain(50, 60, 65, strategy="random")
        rows += chain(50, 90, 90, seed=2) + chain(50, 54, 74, strategy="random", seed=2)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [70]), "random").set_index("strategy")
        assert list(found.loc["random", ["seeds", "reached"]]) == [2, 1]
        assert np.isnan(found.loc["random", ["labels", "median"]].astype(float)).all()
        assert found.loc["lplgrad", "saved"] == pytest.approx((10 + 28 - 15) / 2)
        assert found.loc["lplgrad", "saved_bound"] == "at least"
        assert found["saved_low"].isna()["lplgrad"]
        turned = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [70]), "lplgrad")
        assert turned.set_index("strategy").isna().loc["random", "saved"]

    def test_nothing_saved_has_no_sign(self) -> None:
        rows = chain(50, 70, 90) + chain(50, 70.4, 90, strategy="random")
        found = report.statistics(pd.DataFrame(rows), NAMES, [60])
        text = str(report.parts(found, pd.DataFrame(rows), STUDY))
        assert "15\\nsaves 0'" in text

    def test_the_median_of_censored_chains(self) -> None:
        rows = chain(50, 70, 90) + chain(50, 60, 90, seed=2) + chain(50, 55, 60, seed=3)
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows), [80]), None)
        assert found["median"].tolist() == pytest.approx([20 + 20 / 30 * 10])
        assert found["labels"].isna().all()


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
        found = report.statistics(frame, NAMES)
        assert found.penalties[["wins", "share"]].isna().all(axis=None)
        part = next(part for part in report.parts(found, frame, STUDY) if part.heading.startswith("Wins"))
        assert {cell for row in part.rows for cell in row[1:]} == {"–"}
        texts = {text.get_text() for text in comparison_figures.penalties(found, STUDY).axes[0].texts}
        assert texts == {"–"}
        plt.close("all")

    def test_who_is_absent_somewhere_is_beaten_no_less(self) -> None:
        """lplgrad beats the two others everywhere; that random is missing on one of two data sets is none of its
        merit."""
        frame = study(panels=TWO, gain=10)
        found = report.statistics(without(frame, "budget == 'large' and strategy == 'random'"), NAMES)
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
        text = report.rank_text(report.statistics(lacking, NAMES), study_of(lacking))
        assert "averaged over 2 blocks (each budget and data set is one), in each over the 4 seeds that all" in text

    def test_a_panel_without_a_common_seed_is_no_block(self) -> None:
        frame = without(study(2, panels=TWO), "budget == 'large' and (strategy == 'random') == (seed == 1)")
        found = report.statistics(frame, NAMES)
        assert found.ranking.blocks == 1
        assert "No block, since there they have no seed in common: Digits (8x8), large" in report.rank_text(
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
        found = comparison.rounds(pd.DataFrame(chain(50, 60) + chain(54, 70, seed=2))).iloc[1]
        half = stats.t.ppf(0.975, 1) * math.sqrt(50) / math.sqrt(2)
        assert found[["mean", "std", "low", "high"]].tolist() == pytest.approx(
            [65, math.sqrt(50), 65 - half, 65 + half]
        )


def stopping(frame: pd.DataFrame, strategy: str, seed: int, last: int) -> pd.DataFrame:
    """The measurements if one chain had reached its target accuracy after the round ``last``."""
    frame = frame.copy()
    mine = (frame["strategy"] == strategy) & (frame["seed"] == seed) & (frame["round"] > last)
    then = frame[(frame["strategy"] == strategy) & (frame["seed"] == seed) & (frame["round"] == last)].iloc[0]
    frame.loc[mine, ["labels", "accuracy", "stopped"]] = [then["labels"], then["accuracy"], True]
    return frame


class TestStopped:
    """A seed that reaches its target accuracy is gone afterwards: what is left over are the seeds that did badly."""

    FRAME = stopping(study(rounds=6), "lplgrad", 2, 4)

    def test_the_rounds_end_with_the_first_chain(self) -> None:
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

    def test_the_median_of_labels_is_not_known_beyond_where_a_chain_ended(self) -> None:
        rows = chain(50, 60, 70, 80) + chain(50, 60, 66, 74, seed=2)
        stopped = chain(50, 65, seed=3) + [
            {**row, "labels": 20, "stopped": True, "accuracy": 0.65} for row in chain(0, 0, 50, 50, seed=3)[2:]
        ]
        found = curves.labels_summary(curves.labels_needed(pd.DataFrame(rows + stopped), [72]), None)
        assert (found["reached"].tolist(), found["median"].isna().tolist()) == ([2], [True])

    def test_figures_end_there_too(self) -> None:
        timings = self.FRAME.assign(train_seconds=10.0, query_seconds=3.0)
        above, below = comparison_figures.cost(self.FRAME, timings, STUDY, "small").axes
        assert [line.get_xdata()[-1] for line in above.lines] == [40] * 3
        assert [line.get_xdata()[-1] for line in below.lines] == [4 * 10 + 3 * 3] * 3


def without(frame: pd.DataFrame, condition: str) -> pd.DataFrame:
    return frame.query(f"not ({condition})")


TWO = (("small", "digits"), ("large", "digits"))
BROKEN: dict[str, Callable[[], pd.DataFrame]] = {
    "as it should be": study,
    "one seed": lambda: study(seeds=1),
    "two seeds": lambda: study(seeds=2),
    "one round": lambda: study(rounds=1),
    "two rounds": lambda: study(rounds=2),
    "ties everywhere": lambda: study().assign(accuracy=0.5),
    "the same difference": lambda: study().assign(
        accuracy=lambda f: 0.5 + 0.01 * f["round"] + 0.01 * f["seed"] + 0.02 * (f["strategy"] == "lplgrad")
    ),
    "one strategy": lambda: study().query("strategy == 'entropy'"),
    "no reference": lambda: study().query("strategy != 'lplgrad'"),
    "no random": lambda: study().query("strategy != 'random'"),
    "a seed missing": lambda: without(study(), "strategy == 'random' and seed == 2"),
    "no seed in common": lambda: without(study(2), "(strategy == 'random') == (seed == 1)"),
    "unequal rounds": lambda: without(study(), "strategy == 'entropy' and round == 4"),
    "a strategy absent on one": lambda: without(study(panels=TWO), "budget == 'large' and strategy == 'lplgrad'"),
    "stopped": lambda: study().assign(stopped=lambda f: (f["round"] == 4) & (f["seed"] == 1)),
    "an accuracy missing": lambda: study().assign(accuracy=lambda f: f["accuracy"].where(f.index != 7)),
}


def study_of(frame: pd.DataFrame) -> StudyFile:
    values = yaml.safe_load((HOME / "tests" / "tiny.yaml").read_text())
    digits = values["datasets"]["digits"]
    digits["budgets"] = dict.fromkeys(("small", "large"), digits["budgets"]["small"])
    values["run"]["budgets"] = list(frame["budget"].unique())
    return StudyFile(study=read_study([HOME / "config.yaml"], values))


class TestReport:
    @pytest.fixture(autouse=True)
    def close_figures(self) -> Iterator[None]:
        yield
        plt.close("all")

    @pytest.mark.parametrize("name", BROKEN)
    def test_whatever_is_missing_the_page_and_figures_say_so(self, name: str) -> None:
        """Every number shown is one: nothing is NaN or infinite on the page, and nothing fails."""
        frame = BROKEN[name]()
        file = study_of(frame)
        found = report.statistics(frame, NAMES)
        text = str(report.parts(found, frame, file)).lower()
        assert "nan" not in text
        assert "inf" not in text.replace("influence", "")
        assert all(isinstance(table, pd.DataFrame) for table in found.tables().values())
        for draw in (comparison_figures.differences, comparison_figures.penalties, comparison_figures.ranks):
            draw(found, file)

    def test_what_is_left_out_is_named(self) -> None:
        frame = BROKEN["unequal rounds"]()
        text = str(report.parts(report.statistics(frame, NAMES), frame, STUDY))
        assert text.count("round 4 missing") == 5

    def test_a_strategy_that_is_absent_is_named(self) -> None:
        frame = BROKEN["a strategy absent on one"]()
        parts = report.parts(report.statistics(frame, NAMES), frame, study_of(frame))
        assert [part.heading for part in parts if "without an area: LPLgrad" in str(part.text)] == [
            "Digits (8x8), large budget, 20 to 40 labels"
        ]

    def test_the_pairs_behind_a_difference_are_told(self) -> None:
        frame = BROKEN["a seed missing"]()
        part = next(p for p in report.parts(report.statistics(frame, NAMES), frame, STUDY) if "20 to 40" in p.heading)
        pairs = {row[0]: (row[1], row[4]) for row in part.rows}
        assert pairs == {"LPLgrad": ("5", "–"), "Entropy": ("5", "5"), "Random": ("4", "4")}

    def test_every_round_is_shown_with_its_interval(self) -> None:
        frame = study()
        found = report.statistics(frame, NAMES)
        means, differences = [part for part in report.parts(found, frame, STUDY) if part.folded]
        row = found.rounds.query("strategy == 'entropy' and labels == 30").iloc[0]
        assert means.folded_head == ("labels", "LPLgrad", "Entropy", "Random")
        assert means.folded[2][2] == f"{row['mean']:.2f} ± {row['std']:.2f}\n[{row['low']:.2f}, {row['high']:.2f}]"
        row = found.round_differences.query("baseline == 'random' and labels == 30").iloc[0]
        assert differences.folded_head == ("labels", "Entropy", "Random")
        assert differences.folded[2][2].startswith(f"{row['difference']:+.2f}\n[")
        page = document("t", [means])
        assert "<details><summary>accuracy (%)</summary>" in page

    def test_the_baseline_of_labels_saved_is_named(self) -> None:
        frame = study()
        text = str(report.parts(report.statistics(frame, NAMES), frame, STUDY))
        assert "Labels are saved against Random, which labels at random." in text

    def test_significant_differences_are_bold(self) -> None:
        frame = study(gain=3)
        part = next(p for p in report.parts(report.statistics(frame, NAMES), frame, STUDY) if "20 to 40" in p.heading)
        assert part.rows[0][0] == "LPLgrad"
        assert {row for row, _ in part.strong} == {1, 2}

    @pytest.mark.parametrize("kind", ["differences", "penalties", "ranks"])
    def test_the_same_numbers_draw_the_same_bytes(self, tmp_path: Path, kind: str) -> None:
        for name in ("one", "two"):
            found = report.statistics(study(panels=TWO), NAMES)
            figure = getattr(comparison_figures, kind)(found, study_of(study(panels=TWO)))
            style.save(figure, [tmp_path / f"{name}.svg", tmp_path / f"{name}.png"])
        for ending in ("svg", "png"):
            assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()

    def test_seconds_add_up_before_a_model_is_there(self) -> None:
        """The model of round 2 costs both trainings and the query between them."""
        frame = study(seeds=1, rounds=2)
        timings = frame.assign(train_seconds=10.0, query_seconds=np.where(frame["round"] == 1, 3.0, np.nan))
        axis = comparison_figures.cost(frame, timings, STUDY, "small").axes[1]
        lines = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2]
        assert [list(line) for line in lines] == [[10, 23]] * 3

    def test_calibration_is_drawn_as_it_is(self) -> None:
        """Means of two seeds; the curves end at 20 labels, where the second seed of entropy does."""
        rows = [
            {
                "budget": "small", "dataset": "digits", "strategy": name, "seed": seed, "round": number,
                "labels": 10 * number, "calibration_error": 0.1 * number + 0.02 * seed, "negative_log_likelihood": 1.0,
                "entropy_loss_correlation": 0.5,
            }
            for name in ("entropy", "random")
            for seed in (1, 2)
            for number in (1, 2, 3)
            if (name, seed, number) != ("entropy", 2, 3)
        ]  # fmt: skip
        error, likelihood, correlation = comparison_figures.calibration(pd.DataFrame(rows), STUDY, "small").axes
        for axis, expected in ((error, [13, 23]), (likelihood, [1, 1]), (correlation, [0.5, 0.5])):
            assert [line.get_label() for line in axis.lines] == ["Entropy", "Random"]
            for line in axis.lines:
                assert line.get_xdata().tolist() == [10, 20]
                assert line.get_ydata().tolist() == pytest.approx(expected)

    def test_bands_end_where_what_is_drawn_does(self) -> None:
        about = {"budget": "small", "dataset": "digits", "round": 1, "labels": 10}
        extremes = [
            {"calibration_error": value, "negative_log_likelihood": value, "entropy_loss_correlation": 2 * value - 1,
             "balance_labeled": value, "spread": value, "error_ranking": value}
            for value in (0.0, 1.0, 0.0)
        ]  # fmt: skip
        rows = [
            {**about, "strategy": name, "seed": seed, **values}
            for name in ("entropy", "random")
            for seed, values in enumerate(extremes, start=1)
        ]
        pairs = [
            {**about, "strategy": "entropy", "baseline": "random", "seed": seed, "jaccard": values["spread"]}
            for seed, values in enumerate(extremes, start=1)
        ]
        frame = pd.DataFrame(rows)
        drawn = comparison_figures.calibration(frame, STUDY, "small").axes
        drawn += comparison_figures.choices(frame, pd.DataFrame(pairs), STUDY, "small").axes
        bounds = [(0, 100), (0, math.inf), (-1, 1), (0, 1), (0, math.inf), (0, 1), (0, 1)]
        for axis, (low, high) in zip(drawn, bounds, strict=True):
            points = np.concatenate([path.vertices for band in axis.collections for path in band.get_paths()])[:, 1]
            assert points.min() == low
            assert points.max() <= high

    def test_choices_are_drawn_as_they_are(self) -> None:
        """The overlap with the reference, whichever of the pair it is; random has no ranking of errors."""
        about = {"budget": "small", "dataset": "digits", "seed": 1}
        rows, pairs = [], []
        for number in (1, 2):
            place = {**about, "round": number, "labels": 10 * (number + 1)}
            for name, ranking in (("entropy", 0.7), ("lplgrad", 0.8), ("random", math.nan)):
                values = {"balance_labeled": 0.9, "spread": 1.0 + 0.1 * number, "error_ranking": ranking}
                rows.append({**place, "strategy": name, **values})
            for one, other, jaccard in (("entropy", "lplgrad", 0.5), ("lplgrad", "random", 0.2),
                                        ("entropy", "random", 0.1)):  # fmt: skip
                pairs.append({**place, "strategy": one, "baseline": other, "jaccard": jaccard / number})
        figure = comparison_figures.choices(pd.DataFrame(rows), pd.DataFrame(pairs), STUDY, "small")
        balance, spread, overlap, ranking = figure.axes
        drawn = {line.get_label(): line.get_ydata().tolist() for line in overlap.lines}
        assert drawn == {"Entropy": [0.5, 0.25], "Random": [0.2, 0.1]}
        assert overlap.get_ylabel() == "overlap with LPLgrad\n(Jaccard)"
        assert [line.get_ydata().tolist() for line in balance.lines] == [[0.9, 0.9]] * 3
        assert [line.get_ydata().tolist() for line in spread.lines[1:]] == [pytest.approx([1.1, 1.2])] * 3
        assert {line.get_label() for line in ranking.lines[1:]} == {"LPLgrad", "Entropy"}

    def test_choices_that_are_not_there_are_left_out_and_that_is_said(self) -> None:
        about = {"budget": "small", "dataset": "digits", "strategy": "random", "seed": 1, "round": 1, "labels": 20}
        known = {"balance_labeled": 0.9, "spread": math.nan, "error_ranking": math.nan}
        frame = pd.DataFrame([{**about, **known}])
        overlap = pd.DataFrame(columns=[*about, "baseline", "jaccard"])
        figure = comparison_figures.choices(frame, overlap, STUDY, "small")
        assert [axis.get_ylabel() for axis in figure.axes] == ["class balance of\nthe labelled set"]
        said = " ".join(figure.get_supxlabel().split())
        assert "Overlap with Random is left out: no other strategy chose images on its seeds." in said
        assert "Spread is left out" in said
        assert "The ranking of errors is left out" in said
        nothing = comparison_figures.choices(frame.iloc[:0], overlap, STUDY, "small")
        assert "no query bought labels" in nothing.axes[0].texts[0].get_text()
        with pytest.raises(UserError, match="no budget 'smal'"):
            comparison_figures.choices(frame, overlap, STUDY, "smal")

    def test_one_strategy_is_compared_with_nothing(self) -> None:
        frame = BROKEN["one strategy"]()
        found = report.statistics(frame, NAMES)
        pages = report.parts(found, frame, STUDY)
        assert pages[0].text[1] == "Entropy is the only strategy, so this page compares and tests nothing."
        assert [part.head for part in pages if "area (%)" in part.head] == [
            ("strategy", "seeds", "area (%)", "95 % interval")
        ]
        assert "minus" not in str(pages)
        for draw in (comparison_figures.differences, comparison_figures.penalties, comparison_figures.ranks):
            assert draw(found, STUDY).axes[0].texts[0].get_text().startswith("There ")

    def test_titles_with_an_underscore_first_are_in_the_legend(self) -> None:
        strategies = STUDY.study.strategies
        changed = {**strategies, "entropy": strategies["entropy"].model_copy(update={"title": "_hidden"})}
        file = StudyFile(study=STUDY.study.model_copy(update={"strategies": changed}))
        timings = study().assign(train_seconds=10.0, query_seconds=3.0)
        figure = comparison_figures.cost(study(), timings, file, "small")
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LPLgrad", "_hidden", "Random"]

    def test_correlations_with_the_loss_are_drawn_as_they_are(self) -> None:
        asked = pd.DataFrame({"loss": [1, 2, 3], "gradient_norm": [1, 2, 3], "entropy": [3, 2, 1]}, dtype=float)
        seen = [
            models.Observation(number, 10 * number, np.zeros((3, 2), np.float32), frame, pd.DataFrame())
            for number, frame in (
                (1, asked.assign(predicted_loss=math.nan)),
                (2, asked.assign(predicted_loss=math.nan, entropy=[1.0, 3, 2])),
            )
        ]
        (axis,) = models.loss_correlations(seen).axes
        drawn = {line.get_label(): line.get_ydata() for line in axis.lines[:-1]}
        assert list(drawn) == ["gradient norm", "entropy"], "a model without a module predicts no loss"
        assert drawn["gradient norm"] == pytest.approx([1, 1])
        assert drawn["entropy"] == pytest.approx([-1, 0.5])
        assert list(axis.lines[0].get_xdata()) == [10, 20]


class TestCommands:
    @pytest.fixture
    def folder(self, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]) -> Path:
        (tmp_path / "more.yaml").write_text(yaml.safe_dump(OVERLAY))
        files = (HOME / "config.yaml", HOME / "tests" / "tiny.yaml", tmp_path / "more.yaml")
        assert lplgrad("study", *files, "--output", tmp_path / "study.yaml") == (0, "")
        study().to_csv(tmp_path / "m.csv", index=False)
        return tmp_path

    def test_statistics(self, folder: Path, lplgrad: Callable[..., tuple[int, str]]) -> None:
        given = ["--study", folder / "study.yaml", "--measurements", folder / "m.csv", "--output", folder / "out"]
        assert lplgrad("statistics", *given, "--accuracies", 60, 72.5) == (0, "")
        assert set(pd.read_csv(folder / "out/labels_needed.csv")["accuracy"]) == {60, 72.5}
        assert len(pd.read_csv(folder / "out/areas.csv")) == 15
        assert pd.read_csv(folder / "out/left_out.csv").empty
        assert "72.5 %" in (folder / "out/statistics.html").read_text()

    def test_a_table_that_lacks_rounds_is_taken_as_partial_alone(
        self, folder: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        BROKEN["unequal rounds"]().to_csv(folder / "m.csv", index=False)
        given = ["--study", folder / "study.yaml", "--measurements", folder / "m.csv", "--output", folder / "out"]
        status, told = lplgrad("statistics", *given)
        assert (status, told.count("\n")) == (1, 1)
        assert "m.csv: budget small, dataset digits, strategy entropy" in told
        assert "5 of 60 rows are missing, this one first; delete it and run again, or give --partial" in told
        assert not (folder / "out").exists()
        assert lplgrad("statistics", *given, "--partial") == (0, "")
        assert len(pd.read_csv(folder / "out/left_out.csv")) == 5

    def test_compare(self, folder: Path, lplgrad: Callable[..., tuple[int, str]]) -> None:
        given = ["--study", folder / "study.yaml", "--output", folder / "out.svg"]
        status, told = lplgrad("compare", "ranks", *given, "--measurements", folder / "m.csv")
        assert (status, told) == (0, "")
        assert (folder / "out.svg").read_text().startswith("<?xml")
        status, told = lplgrad("compare", "calibration", *given, "--budget", "small")
        assert (status, told.count("\n")) == (1, 1)
        assert "--diagnostics: missing: calibration is drawn from it" in told
