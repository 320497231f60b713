"""Our numbers beside the paper's, on curves made up so that every cell is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lplgrad.configuration import read_study
from lplgrad.paper import published
from lplgrad.report import deviations, figures, paper_tables, tables
from lplgrad.settings import StudyFile
from lplgrad.study import Chain, Layout

HOME = Path(__file__).parents[1]
PAPER = StudyFile(study=read_study([HOME / "config.yaml"]))


def curve(labels: float) -> float:
    """A straight line, so that interpolating it is exact."""
    return 0.5 + labels / 40_000


def measurements(accuracy: Callable[[str, int, int], float]) -> pd.DataFrame:
    """Cifar10's high budget: lplgrad and ent_gradnorm, 3 seeds, 10 rounds."""
    rows = [
        {
            "budget": "high", "dataset": "cifar10", "strategy": strategy, "acquisition": "gradient_norm", "seed": seed,
            "round": labels // 1000, "labels": labels, "accuracy": accuracy(strategy, seed, labels), "stopped": False,
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
        cells = paper_tables.accuracy_against_paper(tables.accuracy_table(frame))
        assert sorted(set(cells["labels"])) == [3000, 6000, 9000]
        cell = cells.query("strategy == 'lplgrad' and labels == 3000").iloc[0]
        expected = stats.ttest_ind_from_stats(72.0, 1.0, 3, 72.4, 1.1, 5, equal_var=False)
        assert cell["p"] == pytest.approx(expected.pvalue)
        assert cell["difference"] == pytest.approx(-0.4)
        assert cell["verdict"] == "as the paper"
        late = cells.query("strategy == 'lplgrad' and labels == 9000").iloc[0]
        assert late["verdict"] == "below the paper"
        assert late["high"] < 0
        (section,) = paper_tables.accuracy_against_paper_sections(cells, PAPER)
        assert section.rows[0][:4] == ["LPLgrad", "72.0 ± 1.0", "72.4 ± 1.1", "-0.4"]
        assert (0, 9) in section.best
        assert (0, 3) not in section.best

    def test_one_seed_says_nothing(self) -> None:
        frame = measurements(lambda strategy, seed, labels: 0.7).query("seed == 1")
        cells = paper_tables.accuracy_against_paper(tables.accuracy_table(frame))
        assert set(cells["verdict"]) == {"one seed"}
        assert cells["p"].isna().all()

    def test_a_study_of_other_budgets_has_no_cell(self) -> None:
        frame = measurements(lambda strategy, seed, labels: 0.7).assign(budget="small")
        cells = paper_tables.accuracy_against_paper(tables.accuracy_table(frame))
        assert cells.empty
        assert paper_tables.accuracy_against_paper_sections(cells, PAPER) == []


class TestAblation:
    def test_a_fraction_between_two_rounds_is_interpolated(self) -> None:
        def accuracy(strategy: str, seed: int, labels: int) -> float:
            return curve(labels) + 0.01 * seed + (0.001 * seed if strategy == "lplgrad" else 0)

        table = paper_tables.ablation_table(measurements(accuracy), PAPER)
        assert table["fraction"].tolist() == ["1/3", "1/2", "1"]
        assert table["interpolated"].tolist() == [True, False, False]
        third = table.iloc[0]
        assert third["without_mean"] == pytest.approx(100 * (curve(10_000 / 3) + 0.02))
        assert third["gain"] == pytest.approx(0.2)  # of 0.1, 0.2 and 0.3 points
        interval = tuple(stats.t.interval(0.95, 2, loc=0.2, scale=0.1 / np.sqrt(3)))
        assert (third["gain_low"], third["gain_high"]) == pytest.approx(interval)
        assert (third["paper_with"], third["paper_without"]) == (72.2, 69.8)
        (section,) = paper_tables.ablation_sections(table, PAPER)
        assert section.rows[0][0] == "3,333 (interpolated)"
        assert section.rows[0][-1] == "+2.4"

    def test_only_trials_that_both_have_are_paired(self) -> None:
        frame = measurements(lambda strategy, seed, labels: curve(labels))
        table = paper_tables.ablation_table(frame.query("not (strategy == 'lplgrad' and seed == 3)"), PAPER)
        assert (table["seeds"] == 2).all()
        one = paper_tables.ablation_table(frame.query("seed == 1"), PAPER)
        assert one["gain_low"].isna().all()
        none = paper_tables.ablation_table(frame.query("strategy == 'lplgrad'"), PAPER)
        assert (none["seeds"] == 0).all()
        assert none["gain"].isna().all()

    def test_a_trial_that_stopped_leaves_no_fraction_to_the_others(self) -> None:
        """Seed 1 of lplgrad stops at 4,000 of 10,000 labels: what the other two have later is not the average trial."""
        frame = measurements(lambda strategy, seed, labels: curve(labels) + 0.01 * seed * (strategy == "lplgrad"))
        gone = (frame["strategy"] == "lplgrad") & (frame["seed"] == 1) & (frame["labels"] > 4000)
        frame.loc[gone, ["labels", "accuracy", "stopped"]] = [4000, curve(4000), True]
        table = paper_tables.ablation_table(frame, PAPER)
        assert table["seeds"].tolist() == [3, 0, 0]
        assert table["gain"].isna().tolist() == [False, True, True]
        assert table["gain"].iloc[0] == pytest.approx(2.0)

    def test_the_factorised_study_pairs_every_query_but_predicted_loss(self) -> None:
        study = read_study([HOME / "config.yaml", HOME / "studies" / "ablation.yaml"])
        assert [one for one, _ in Layout(study).ablation_pairs()] == [
            "joint_gradient_norm", "joint_entropy", "joint_coreset", "joint_random",
        ]  # fmt: skip
        assert list(Layout(PAPER.study).ablation_pairs()) == [("lplgrad", "ent_gradnorm")]


def test_time_as_multiples() -> None:
    table = pd.DataFrame(
        {
            "budget": "high", "dataset": "cifar10", "strategy": ["lplgrad", "coreset", "mine"],
            "train_round": [10.0, 11.0, 5.0], "query_round": [2.0, 4.0, 1.0],
        }
    )  # fmt: skip
    ratios = paper_tables.time_against_paper(table).set_index("strategy").to_dict("index")
    coreset = ratios["coreset"]
    assert (coreset["train_ratio"], coreset["query_ratio"]) == (1.1, 2.0)
    assert coreset["paper_query_ratio"] == pytest.approx(2319 / 14)
    assert np.isnan(ratios["mine"]["paper_query_ratio"])


class TestDeviations:
    def of(self, *overlays: str) -> pd.DataFrame:
        preset = [HOME / "config.yaml", HOME / "studies" / "authors_code.yaml"]
        study = read_study([HOME / "config.yaml", *(HOME / name for name in overlays)])
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

    def test_a_reduced_study_says_what_it_reduced(self) -> None:
        table = self.of("studies/reduced.yaml").set_index("setting")
        assert table.loc["datasets.cifar10.model.width", "study"] == "16"
        assert table.loc["datasets.cifar10.training.epochs", "paper"] == "200"
        assert table.loc["datasets.cifar10.training.epochs", "study"] == "20"


class TestStopping:
    """A trial that stopped early counts up to where it stopped, and is not counted on."""

    @pytest.fixture
    def stopped(self) -> pd.DataFrame:
        frame = measurements(lambda strategy, seed, labels: curve(labels) + 0.01 * seed)
        early = (frame["seed"] == 3) & (frame["strategy"] == "lplgrad") & (frame["labels"] > 5000)
        frame.loc[early, ["labels", "accuracy", "stopped"]] = [5000, curve(5000) + 0.03, True]
        return frame

    def test_in_the_table(self, stopped: pd.DataFrame) -> None:
        table = tables.accuracy_table(stopped).query("strategy == 'lplgrad'").set_index("labels")
        assert table["seeds"].tolist() == [3] * 5 + [2] * 5
        assert table.loc[5000, "mean"] == pytest.approx(100 * (curve(5000) + 0.02))
        (section,) = tables.accuracy_sections(tables.accuracy_table(stopped), PAPER)
        assert section.rows[5][1].endswith("(of 2)")

    def test_in_the_curve(self, stopped: pd.DataFrame) -> None:
        figure = figures.learning_curves(stopped, PAPER, "high")
        lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
        assert lines["LPLgrad"].get_xdata().tolist() == list(range(1000, 6000, 1000))
        assert lines["Ent-GradNorm"].get_xdata()[-1] == 10_000
        stars = [line for line in figure.axes[0].get_lines() if line.get_marker() == "*" and len(line.get_xdata())]
        assert [(star.get_xdata().tolist(), star.get_ydata().tolist()) for star in stars] == [
            ([5000], [pytest.approx(100 * (curve(5000) + 0.03))])
        ]


class TestShownModels:
    def test_those_of_the_paper(self) -> None:
        layout = Layout(PAPER.study)
        assert layout.shown_models() == {Chain("high", "cifar10", "lplgrad", 1): [2, 4, 6, 8]}
        kept = layout.kept_checkpoints()
        assert "high/cifar10/lplgrad/seed1/round(?:2|4|6|8)/" in kept

    def test_what_is_gone_must_be_trained_again_and_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        layout = Layout(PAPER.study)
        (chain,) = layout.shown_models()
        assert layout.gone_models() == {}, "nothing has run"
        for number in range(1, 11):
            folder = Path(layout.trained(chain, number))
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text("{}")
            if number in (1, 4, 6, 10):
                (folder / "checkpoint.safetensors").write_text("")
        assert layout.gone_models() == {chain: range(2, 11)}
        for number in (2, 4):
            Path(layout.round(chain, number)).mkdir(parents=True, exist_ok=True)
            Path(layout.round(chain, number), "features.npy").write_text("")
        assert layout.gone_models() == {chain: range(7, 11)}
        Path(layout.round(chain, 8), "features.npy").write_text("")
        assert layout.gone_models() == {}
