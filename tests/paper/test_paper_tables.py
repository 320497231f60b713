"""Our numbers beside the paper's, on curves made up so that every cell is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lplgrad.analysis.trained import trained
from lplgrad.paper import ablation, published
from lplgrad.paper import tables as paper_tables
from lplgrad.report import deviations, figures, tables
from lplgrad.study.budgets import Start
from lplgrad.study.layout import Layout
from lplgrad.study.pairs import ablation_pairs
from lplgrad.study.reading import read_study
from lplgrad.study.settings import Strategy, Study, StudyFile

HOME = Path(__file__).parents[2]
PAPER = StudyFile(study=read_study([HOME / "config.yaml"]))


def curve(labels: float) -> float:
    """A straight line, so that interpolating it is exact."""
    return 0.5 + labels / 40_000


def measurements(accuracy: Callable[[str, int, int], float]) -> pd.DataFrame:
    """Cifar10's high budget: lplgrad and ent_gradnorm, 3 seeds, 10 rounds."""
    rows = [
        {
            "budget": "high", "dataset": "cifar10", "strategy": strategy, "acquisition": "gradient_norm", "seed": seed,
            "round": labels // 1000, "labels": labels, "accuracy": accuracy(strategy, seed, labels), "repeats": 0,
        }
        for strategy in ("lplgrad", "ent_gradnorm")
        for seed in (1, 2, 3)
        for labels in range(1000, 11_000, 1000)
    ]  # fmt: skip
    return pd.DataFrame(rows)


class TestPublished:
    def test_the_budgets_are_those_of_the_configuration(self) -> None:
        """config.yaml is the paper: nothing in brackets."""
        table = paper_tables.budgets_table(PAPER)
        merged = table.merge(published("budgets"), on=["budget", "dataset"], suffixes=("", "_paper"))
        assert len(merged) == 10
        for kind in ("query_size", "candidates", "labels"):
            assert (merged[kind] == merged[f"{kind}_paper"]).all()
        assert table["rounds"].tolist() == [10, 8, 10, 7, 5] * 2

    def test_a_chosen_start_is_in_the_table(self) -> None:
        budgets = PAPER.study.datasets["svhn"].budgets
        chosen = budgets["low"].model_copy(update={"start": Start.model_construct(size=None, by="typiclust")})
        row = PAPER.study.datasets["svhn"].model_copy(update={"budgets": {**budgets, "low": chosen}})
        changed = {"datasets": {**PAPER.study.datasets, "svhn": row}}
        file = StudyFile.model_construct(study=PAPER.study.model_copy(update=changed))
        table = paper_tables.budgets_table(file)
        assert table.query("budget == 'low'").set_index("dataset")["chosen_by"].to_dict() == {
            name: "typiclust" if name == "svhn" else "uniform draw" for name in PAPER.study.run.datasets
        }
        low = paper_tables.budgets_parts(table, file)[0]
        assert [row[0] for row in low.rows] == [
            "query size b",
            "labels of round 1 chosen by",
            "candidates S",
            "labels A",
            "rounds",
        ]
        assert "chosen_by" not in paper_tables.budgets_table(PAPER)

    def test_every_cell_names_what_the_configuration_has(self) -> None:
        study = PAPER.study
        for name in ("accuracy", "time", "ablation", "budgets", "datasets"):
            frame = published(name)
            assert set(frame["dataset"]) <= set(study.run.datasets)
            assert set(frame.get("strategy", [])) <= set(study.run.strategies)
        for row in published("accuracy").itertuples():
            budget = study.datasets[str(row.dataset)].budgets[str(row.budget)]
            assert int(str(row.labels)) % budget.query_size == 0
        assert len(published("accuracy")) == 72
        assert len(published("ablation")) == 24

    def test_the_published_gain_of_the_auxiliary_module(self) -> None:
        """Not "around 8 %": 1.9 points on average, 7.6 at most."""
        gain = published("ablation")["with_auxiliary"] - published("ablation")["without_auxiliary"]
        assert gain.mean() == pytest.approx(1.9, abs=0.05)
        assert gain.max() == pytest.approx(7.6)


class TestAccuracy:
    def test_welch_against_the_cell(self) -> None:
        frame = measurements(lambda strategy, seed, labels: 0.70 + 0.01 * seed)
        cells = paper_tables.accuracy_against_paper(frame)
        assert sorted(set(cells["labels"])) == [3000, 6000, 9000]
        cell = cells.query("strategy == 'lplgrad' and labels == 3000").iloc[0]
        expected = stats.ttest_ind_from_stats(72.0, 1.0, 3, 72.4, 1.1, 5, equal_var=False)
        assert cell["p"] == pytest.approx(expected.pvalue)
        assert cell["difference"] == pytest.approx(-0.4)
        assert cell["verdict"] == "not told apart", "two numbers that cannot be told apart are not thereby the same"
        late = cells.query("strategy == 'lplgrad' and labels == 9000").iloc[0]
        assert late["verdict"] == "below the paper"
        assert late["high"] < 0
        (section,) = paper_tables.accuracy_against_paper_parts(cells, PAPER)
        assert list(section.rows[0][:4]) == ["LPLgrad", "72.0 ± 1.0", "72.4 ± 1.1", "−0.4"]
        assert (0, 9) in section.strong
        assert (0, 3) not in section.strong

    def test_one_seed_says_nothing(self) -> None:
        frame = measurements(lambda strategy, seed, labels: 0.7).query("seed == 1")
        cells = paper_tables.accuracy_against_paper(frame)
        assert set(cells["verdict"]) == {"one seed"}
        assert cells["p"].isna().all()

    def test_a_study_of_other_budgets_has_no_cell(self) -> None:
        frame = measurements(lambda strategy, seed, labels: 0.7).assign(budget="small")
        cells = paper_tables.accuracy_against_paper(frame)
        assert cells.empty
        assert paper_tables.accuracy_against_paper_parts(cells, PAPER) == []


class TestAblation:
    def test_a_fraction_between_two_rounds_is_interpolated(self) -> None:
        def accuracy(strategy: str, seed: int, labels: int) -> float:
            return curve(labels) + 0.01 * seed + (0.001 * seed if strategy == "lplgrad" else 0)

        table = ablation.ablation_table(measurements(accuracy), PAPER)
        assert table["fraction"].tolist() == ["1/3", "1/2", "1"]
        assert table["interpolated"].tolist() == [True, False, False]
        third = table.iloc[0]
        assert third["without_mean"] == pytest.approx(100 * (curve(10_000 / 3) + 0.02))
        assert third["gain_mean"] == pytest.approx(0.2)  # of 0.1, 0.2 and 0.3 points
        interval = tuple(stats.t.interval(0.95, 2, loc=0.2, scale=0.1 / np.sqrt(3)))
        assert (third["gain_low"], third["gain_high"]) == pytest.approx(interval)
        assert (third["with_paper"], third["without_paper"]) == (72.2, 69.8)
        (section,) = ablation.ablation_parts(table, PAPER)
        assert section.rows[0][0] == "3,333 (interpolated)"
        assert section.rows[0][-2] == "+2.4"

    def test_a_number_of_the_paper_is_held_against_our_interval(self) -> None:
        """Without: 61.3, 62.3, 63.3 % beside the paper's 69.8; with 72.1, 72.2, 72.3 beside 72.2."""

        def accuracy(strategy: str, seed: int, labels: int) -> float:
            return 0.72 + 0.001 * seed if strategy == "lplgrad" else 0.603 + 0.01 * seed

        third = ablation.ablation_table(measurements(accuracy), PAPER).iloc[0]
        assert (third["with_difference"], third["without_difference"]) == pytest.approx((0, -7.5))
        assert third["gain_difference"] == pytest.approx(9.9 - 2.4)
        assert (third["with_outside"], third["without_outside"], third["gain_outside"]) == (False, True, True)
        interval = tuple(stats.t.interval(0.95, 2, loc=62.3, scale=1 / np.sqrt(3)))
        assert (third["without_low"], third["without_high"]) == pytest.approx(interval)
        (section,) = ablation.ablation_parts(third.to_frame().T, PAPER)
        assert [section.head[column] for row, column in sorted(section.strong)] == ["difference", "gain", "difference"]
        assert section.rows[0][3:] == [
            "72.2 ± 0.1", "72.2", "+0.0", "62.3 ± 1.0", "69.8", "−7.5", "+9.9", "[+7.7, +12.1]", "+2.4", "+7.5",
        ]  # fmt: skip

    def test_a_gap_is_not_interpolated(self) -> None:
        """Nobody measured 5,000 labels, a round's own number."""
        frame = measurements(lambda strategy, seed, labels: curve(labels)).query("labels != 5000")
        assert ablation.ablation_table(frame, PAPER)["interpolated"].tolist() == [True, False, False]

    def test_only_trials_that_both_have_are_paired(self) -> None:
        frame = measurements(lambda strategy, seed, labels: curve(labels))
        table = ablation.ablation_table(frame.query("not (strategy == 'lplgrad' and seed == 3)"), PAPER)
        assert (table["seeds"] == 2).all()
        one = ablation.ablation_table(frame.query("seed == 1"), PAPER)
        assert one["gain_low"].isna().all()
        assert one["gain_outside"].isna().all()
        none = ablation.ablation_table(frame.query("strategy == 'lplgrad'"), PAPER)
        assert (none["seeds"] == 0).all()
        assert none["gain_mean"].isna().all()

    def test_the_factorised_study_pairs_every_query_but_predicted_loss(self) -> None:
        study = read_study([HOME / "config.yaml", HOME / "studies" / "ablation.yaml"])
        assert list(ablation_pairs(study)) == [
            ("lplgrad", "ent_gradnorm"), ("joint_entropy", "entropy"), ("joint_coreset", "coreset"),
            ("joint_random", "random"),
        ]  # fmt: skip
        assert list(ablation_pairs(PAPER.study)) == [("lplgrad", "ent_gradnorm")]
        assert set(published("accuracy")["strategy"]) <= set(study.run.strategies), (
            "the paper's numbers stand beside it"
        )

    def test_pairs_differ_in_the_module_alone(self, tmp_path: Path) -> None:
        overlay = tmp_path / "overlay.yaml"
        overlay.write_text(
            """
            run: {strategies: [lplgrad, fresh, ent_gradnorm, unsaid, summed]}
            recipes: {joint_fresh: {trains: joint, init: fresh}}
            strategies:
              fresh: {recipe: joint_fresh, acquisition: gradient_norm, norm: global}
              unsaid: {recipe: plain, acquisition: gradient_norm}
              summed: {recipe: plain, acquisition: gradient_norm, norm: sum}
            """
        )
        pairs = ablation_pairs(read_study([HOME / "config.yaml", overlay]))
        assert list(pairs) == [("lplgrad", "ent_gradnorm"), ("lplgrad", "unsaid")]


class TestTime:
    """Two seeds, two rounds: LPLgrad trains 10 s a round and asks 2 s; coreset 11 and 12 s, 4 and 6 s."""

    @pytest.fixture
    def timings(self) -> pd.DataFrame:
        rows = [
            {
                "budget": "high", "dataset": "cifar10", "strategy": strategy, "seed": seed, "round": number,
                "train_seconds": train[seed - 1], "query_seconds": query[seed - 1] if number == 1 else np.nan,
                "repeats": 0,
            }
            for strategy, train, query in (
                ("lplgrad", (10.0, 10.0), (2.0, 2.0)), ("coreset", (11.0, 12.0), (4.0, 6.0)),
                ("mine", (5.0, 5.0), (1.0, 1.0)),
            )
            for seed in (1, 2)
            for number in (1, 2)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def test_as_multiples_with_an_interval(self, timings: pd.DataFrame) -> None:
        table = paper_tables.time_against_paper(timings)
        coreset = table.query("strategy == 'coreset'").set_index(["phase", "unit"]).to_dict("index")
        train = coreset["train", "round"]
        assert (train["seeds"], train["ratio"]) == (2, pytest.approx(1.15))
        interval = tuple(stats.t.interval(0.95, 1, loc=1.15, scale=0.05))
        assert (train["low"], train["high"]) == pytest.approx(interval)
        assert train["paper"] == pytest.approx(68.42 / 60.5)
        assert train["outside"] is False
        query = coreset["query", "trial"]
        assert (query["ratio"], query["paper"]) == (pytest.approx(2.5), pytest.approx(2319 / 14))
        assert query["outside"] is True
        assert table.query("strategy == 'mine'")["paper"].isna().all()
        (section,) = paper_tables.time_against_paper_parts(table, self.with_mine())
        assert section.rows[0] == ["LPLgrad", "2", *["1", "1", "1"] * 2]
        assert section.rows[1][4:] == ["1.13", *["2.5 [-3.85, 8.85]"] * 2, "166"]
        assert section.rows[2][2:] == ["0.5", "0.5", "–", "0.5", "0.5", "–"]
        assert section.strong == {(1, 5), (1, 6)}

    def with_mine(self) -> StudyFile:
        mine = {**PAPER.study.strategies, "mine": PAPER.study.strategies["random"].model_copy(update={"title": "Mine"})}
        return StudyFile(study=PAPER.study.model_copy(update={"strategies": mine}))

    def test_a_trial_that_stopped_is_compared_in_the_rounds_it_trained(self, timings: pd.DataFrame) -> None:
        early = (timings["strategy"] == "coreset") & (timings["seed"] == 2)
        timings.loc[early, "query_seconds"] = np.nan
        timings = trained(timings, early & (timings["round"] == 2))
        found = paper_tables.time_against_paper(timings).query("strategy == 'coreset'").set_index(["phase", "unit"])
        assert found["seeds"].to_dict() == {
            ("train", "round"): 2, ("train", "trial"): 1, ("query", "round"): 1, ("query", "trial"): 1,
        }  # fmt: skip
        assert found["ratio"].round(3).tolist() == [1.15, 1.1, 2, 2]
        (section,) = paper_tables.time_against_paper_parts(paper_tables.time_against_paper(timings), self.with_mine())
        assert section.rows[1][1:5] == ["2", "1.15 [0.515, 1.79]", "1.1 (n = 1)", "1.13"]

    def test_only_the_high_budget_of_the_papers_data_sets(self, timings: pd.DataFrame) -> None:
        for other in ({"budget": "low"}, {"dataset": "digits"}, {"strategy": "entropy"}):
            table = paper_tables.time_against_paper(timings.assign(**other))
            assert table.empty
            assert paper_tables.time_against_paper_parts(table, PAPER) == []


class TestDatasets:
    def test_one_that_was_left_out_has_dashes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (section,) = paper_tables.datasets_parts(paper_tables.datasets_table(PAPER), PAPER)
        assert not any("nan" in cell for row in section.rows for cell in row)
        assert section.rows[0] == ["CIFAR-10", "ours", *"–" * 5, "200", "128", "–"]

    def test_examples_in_all_beside_what_the_paper_calls_size(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "data" / "cifar10"
        folder.mkdir(parents=True)
        splits = {"train": {"inputs": [50_000, 32, 32, 3]}, "test": {"inputs": [10_000, 32, 32, 3]}}
        (folder / "dataset.json").write_text(json.dumps({"splits": splits, "classes": list("0123456789")}))
        (section,) = paper_tables.datasets_parts(paper_tables.datasets_table(PAPER), PAPER)
        column = section.head.index("examples in all")
        assert [row[column] for row in section.rows[:2]] == ["60,000", "70,000"]
        assert (1, column) in section.strong
        assert section.rows[0][-1] == "3x32x32"


class TestDeviations:
    def of(self, *overlays: str) -> pd.DataFrame:
        preset = [HOME / "config.yaml", HOME / "studies" / "authors_code.yaml"]
        study = read_study([HOME / "config.yaml", *(HOME / name for name in overlays)])
        study = Study.model_validate(Layout(study).study_settings())  # what study.yaml has
        return deviations.deviations_table(study, PAPER.study, read_study(preset))

    def test_the_authors_code_differs_in_just_these(self) -> None:
        table = self.of("studies/authors_code.yaml")
        assert set(table["setting"]) == {
            "recipes.joint.auxiliary_schedule", "strategies.lplgrad.norm", "strategies.ent_gradnorm.norm",
            "datasets.cifar10.budgets.high.candidates", "datasets.svhn.training.learning_rate",
            "datasets.svhn.training.milestones", "datasets.svhn.augmentation.horizontal_flip",
            "datasets.svhn.normalization.mean", "datasets.svhn.normalization.std", "datasets.svhn.query_transform",
        }  # fmt: skip
        assert (table["study"] == table["authors_code"]).all()
        assert (table["study"] != table["paper"]).all()

    def test_the_paper_deviates_from_nothing(self) -> None:
        assert (self.of()["study"] == self.of()["paper"]).all()

    def test_what_is_not_run_deviates_from_nothing(self) -> None:
        """The GPU study runs one of two budgets; its one departure beside its images is bfloat16."""
        table = self.of("studies/cifar10_high_jpeg.yaml")
        assert table.loc[table["study"] != table["paper"], "setting"].tolist() == [
            "datasets.cifar10.source", "datasets.cifar10.path", "compute.precision",
        ]  # fmt: skip

    def test_an_option_with_its_default_is_said_or_unsaid(self) -> None:
        study = PAPER.study
        unsaid = {**study.strategies, "lplgrad": Strategy(recipe="joint", acquisition="gradient_norm")}
        table = deviations.deviations_table(study.model_copy(update={"strategies": unsaid}), study, study)
        assert table.empty

    def test_a_reduced_study_says_what_it_reduced(self) -> None:
        table = self.of("studies/reduced.yaml").set_index("setting")
        assert table.loc["datasets.cifar10.backbone.width", "study"] == "16"
        assert table.loc["datasets.cifar10.training.epochs", "paper"] == "200"
        assert table.loc["datasets.cifar10.training.epochs", "study"] == "20"
        assert table.loc["datasets.cifar10.training.batch_size", "study"] == "64"
        assert not any(".budgets." in key for key in table.index), "its budget is its own"
        table = self.of("demo.yaml").set_index("setting")
        assert (table.loc["run.seeds", "paper"], table.loc["run.seeds", "study"]) == ('"5 seeds"', '"3 seeds"')

    def test_the_page_shows_no_quotation_marks(self) -> None:
        (section,) = deviations.deviations_parts(self.of("demo.yaml"), "this study")
        assert ["run.seeds", "5 seeds", "5 seeds", "3 seeds"] in section.rows


class TestStopping:
    """A trial that stopped early counts up to where it stopped, and is not counted on."""

    @pytest.fixture
    def stopped(self) -> pd.DataFrame:
        frame = measurements(lambda strategy, seed, labels: curve(labels) + 0.01 * seed)
        early = (frame["seed"] == 3) & (frame["strategy"] == "lplgrad") & (frame["labels"] > 5000)
        return trained(frame, early)

    def test_in_the_table(self, stopped: pd.DataFrame) -> None:
        table = tables.accuracy_table(stopped).query("strategy == 'lplgrad'").set_index("labels")
        assert table["seeds"].tolist() == [3] * 5 + [2] * 5
        assert table.loc[5000, "mean"] == pytest.approx(100 * (curve(5000) + 0.02))
        (section,) = tables.accuracy_parts(tables.accuracy_table(stopped), PAPER)
        assert section.rows[5][1].endswith("(of 2)")

    def test_beside_the_paper_nothing_is_tested(self, stopped: pd.DataFrame) -> None:
        cells = paper_tables.accuracy_against_paper(stopped)
        assert cells["stopped"].tolist() == [0, 1, 1, 0, 0, 0]
        assert cells["seeds"].tolist() == [3, 2, 2, 3, 3, 3]
        assert (cells["verdict"] == "trials stopped").tolist() == [False, True, True, False, False, False]
        assert cells["p"].isna().tolist() == cells["low"].isna().tolist() == [False, True, True, False, False, False]
        (section,) = paper_tables.accuracy_against_paper_parts(cells, PAPER)
        assert section.rows[0][7].endswith("(n = 2)")
        assert (0, 9) not in section.strong

    def test_in_the_ablation(self, stopped: pd.DataFrame) -> None:
        table = ablation.ablation_table(stopped, PAPER)
        assert table[["seeds", "stopped"]].to_numpy().tolist() == [[3, 0], [3, 0], [2, 1]]
        assert table["with_low"].isna().tolist() == [False, False, True]
        assert table["with_outside"].isna().tolist() == [False, False, True]
        (section,) = ablation.ablation_parts(table, PAPER)
        assert [row[2] for row in section.rows] == ["3", "3", "2 (1 stopped before)"]
        assert not any(row == 2 for row, _ in section.strong)

    def test_in_the_curve(self, stopped: pd.DataFrame) -> None:
        figure = figures.learning_curves(stopped, PAPER, "high")
        lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
        assert lines["LPLgrad"].get_xdata().tolist() == list(range(1000, 6000, 1000))
        assert lines["Ent-GradNorm"].get_xdata()[-1] == 10_000
        stars = [line for line in figure.axes[0].get_lines() if line.get_marker() == "*" and len(line.get_xdata())]
        assert [(star.get_xdata().tolist(), star.get_ydata().tolist()) for star in stars] == [
            ([5000], [pytest.approx(100 * (curve(5000) + 0.03))])
        ]
