"""What accuracy does not say, from the files of a study that ran on a small data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from lplgrad.analysis import choices, diagnostics, measured, score_loss
from lplgrad.analysis.trained import trained_rounds
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json, write_text
from lplgrad.report import diagnostics as page
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.settings import StudyFile
from tests.conftest import TRAIN, record_settings

HOME = Path(__file__).parents[2]


def test_correlations_over_seeds() -> None:
    about = {"budget": "small", "dataset": "digits", "strategy": "entropy", "round": 2, "labels": 20}
    seeds = pd.DataFrame(
        [{**about, "seed": seed, "score": "entropy", "correlation": value} for seed, value in ((1, 0.5), (2, 0.7))]
    )
    found = score_loss.over_seeds(seeds).iloc[0]
    half = stats.t.ppf(0.975, 1) * 0.1  # the standard error of two values is half their distance
    assert found[["seeds", "mean", "low", "high"]].tolist() == pytest.approx([2, 0.6, 0.6 - half, 0.6 + half])


def test_a_rank_correlation_of_what_is_not_finite_is_not_known() -> None:
    one = np.array([1.0, 2, 3, 4])
    assert choices.rank_correlation(one, one**2) == pytest.approx(1)
    for broken in (math.nan, math.inf, -math.inf):
        other = np.array([1.0, 2, 3, broken])
        assert math.isnan(choices.rank_correlation(one, other))
        assert math.isnan(choices.rank_correlation(other, one))


def test_true_losses_end_where_the_first_trial_does() -> None:
    """Of seed 2 round 2 is missing: it has stopped. A trial without a score, too, is one that may end first."""
    about = {"budget": "small", "dataset": "digits", "score": "entropy", "correlation": 0.5}
    rows = [
        {**about, "strategy": "entropy", "seed": seed, "round": number, "labels": 10 * number}
        for seed, last in ((1, 3), (2, 2))
        for number in range(1, last + 1)
    ]
    rows.append({**about, "strategy": "random", "seed": 1, "round": 1, "labels": 10, "correlation": np.nan})
    assert score_loss.over_seeds(pd.DataFrame(rows[:-1]))[["labels", "seeds"]].to_numpy().tolist() == [[10, 2], [20, 2]]
    assert score_loss.over_seeds(pd.DataFrame(rows))["labels"].tolist() == [10]


def small_study(folder: Path, target: float | None = None) -> StudyFile:
    """A study of two strategies and two rounds on the small data set, which is in a folder."""
    values = yaml.safe_load((HOME / "tests" / "tiny.yaml").read_text())
    values["data_dir"] = str(folder)
    del values["model_figures"]
    values["run"] |= {"strategies": ["entropy", "random"], "seeds": [1], "datasets": ["data"]}
    values["datasets"] = {"data": values["datasets"]["digits"]}
    budget = {"query_size": 6, "candidates": 30, "labels": 12, "target_accuracy": target}
    values["datasets"]["data"]["budgets"] = {"small": budget}
    return StudyFile(study=read_study([HOME / "config.yaml"], values))


def test_the_page_of_true_losses(data: DatasetArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies down in the order of the study, labels across; what a seed lacks is told, what all lack is a dash."""
    for module in (score_loss, page):
        monkeypatch.setattr(module, "TEST_EXAMPLES", 7)
    about = {"budget": "small", "dataset": "data", "round": 1, "labels": 10}
    later = {**about, "round": 2, "labels": 20}
    correlations = pd.DataFrame(
        [
            {**where, "strategy": strategy, "seed": seed, "score": strategy, "correlation": value}
            for where, strategy, seed, value in (
                (about, "random", 1, 0.3), (about, "random", 2, 0.3),
                (about, "entropy", 1, 0.5), (later, "entropy", 1, 0.25), (about, "entropy", 2, 0.7),
                (later, "entropy", 2, np.nan), (later, "random", 1, np.nan), (later, "random", 2, np.nan),
            )
        ]
    )  # fmt: skip
    (_, part) = page.parts(score_loss.over_seeds(correlations), small_study(tmp_path))
    assert part.heading == "Digits (8x8), small budget, 2 seeds"
    assert part.text == ("Over 7 of the 20 test examples, drawn anew for every seed.",)
    assert part.head == ("strategy and score", "10 labels", "20 labels")
    assert part.rows == [
        ("Entropy\nentropy", "0.600 ± 0.141\n[−0.671, 1.871]", "0.250 (of 1)"),
        ("Random\nrandom", "0.300 ± 0.000", "–"),
    ]


def test_rounds_up_to_one_that_is_shown_need_nothing_of_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layout = Layout(small_study(tmp_path, target=0.9).study)
    trial = next(iter(layout.trials()))
    assert trained_rounds(layout, trial, until=1) == 1
    with pytest.raises(FileNotFoundError):
        trained_rounds(layout, trial)
    for accuracy, rounds in ((0.8, 2), (0.9, 1)):
        write_json(Path(layout.trained(trial, 1)) / "metrics.json", {"accuracy": accuracy, "stopped": False})
        assert trained_rounds(layout, trial, until=2) == rounds


class TestArtifacts:
    @pytest.fixture
    def ran(
        self, data: DatasetArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Callable[..., Any]
    ) -> StudyFile:
        """A study of two strategies and two rounds, run by hand on the small data set."""
        monkeypatch.chdir(tmp_path)
        file = small_study(tmp_path)
        root = tmp_path / "results/tiny/small/data"
        start = root / "start/seed1"
        common = ["--data", data.folder, "--seed", 1, "--round"]
        lplgrad("start", *common[:4], "--query-size", 6, "--output", start / "labeled.csv")
        lplgrad(
            "train", *common, 1, "--labeled", start / "labeled.csv", "--settings", TRAIN, "--output", start / "plain"
        )
        for name in ("entropy", "random"):
            settings = f"{{acquisition: {name}, query_size: 6, candidates: 30}}"
            folder = root / name / "seed1"
            model = ["--checkpoint", start / "plain/checkpoint.safetensors"]
            ask = ["--labeled", start / "labeled.csv", *(model if name == "entropy" else [])]
            lplgrad("query", *common, 1, *ask, "--settings", settings, "--output", folder / "round1")
            taught = ["--labeled", folder / "round1/next_labeled.csv", *model, "--settings", TRAIN]
            lplgrad("train", *common, 2, *taught, "--output", folder / "round2")
        return file

    def test_calibration_of_every_round(self, ran: StudyFile, data: DatasetArrays) -> None:
        frame = diagnostics.calibration(ran)
        assert frame[["strategy", "round", "labels"]].to_numpy().tolist() == [
            ["entropy", 1, 6], ["entropy", 2, 12], ["random", 1, 6], ["random", 2, 12],
        ]  # fmt: skip
        logits = np.load("results/tiny/small/data/entropy/seed1/round2/test_logits.npy").astype(float)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = -log_p[np.arange(20), data.splits["test"].labels].mean()
        assert frame["negative_log_likelihood"].iloc[1] == pytest.approx(expected)
        first, again = frame.query("round == 1").drop(columns="strategy").to_numpy().tolist()
        assert first == again, "round 1 is the recipe's"

    def test_choices_of_every_query(self, ran: StudyFile) -> None:
        frame = diagnostics.choices(ran).set_index("strategy")
        assert frame["labels"].tolist() == [12, 12]
        assert frame.loc["random", "spread"] == 1, "what random labelling chose is the measure"
        assert frame["error_ranking"].isna().to_dict() == {"entropy": False, "random": True}
        assert frame.loc["entropy", "score_entropy_correlation"] == pytest.approx(1, abs=1e-3)

    def test_overlap_of_choices(self, ran: StudyFile) -> None:
        frame = diagnostics.overlap(ran)
        sets = []
        for name in ("entropy", "random"):
            labeled = pd.read_csv(f"results/tiny/small/data/{name}/seed1/round1/next_labeled.csv")
            sets.append(set(labeled.query("round == 2")["index"]))
        assert frame["jaccard"].tolist() == [len(sets[0] & sets[1]) / len(sets[0] | sets[1])]

    def test_a_stopped_trial_chooses_nothing_more(self, ran: StudyFile, tmp_path: Path) -> None:
        metrics = {"labels": 6, "accuracy": 0.5, "stopped": False}
        write_json(Path("results/tiny/small/data/start/seed1/plain/metrics.json"), metrics)
        for target, rounds in ((0.5, [1, 1]), (0.51, [1, 2, 1, 2])):
            file = small_study(tmp_path, target)
            assert diagnostics.calibration(file)["round"].tolist() == rounds
            assert len(diagnostics.choices(file)) == len(rounds) - 2
            assert len(diagnostics.overlap(file)) == len(rounds) // 2 - 1
        written = small_study(tmp_path, 0.5)
        for name in ("calibration", "choices", "overlap"):
            table = getattr(diagnostics, name)(written).to_csv(index=False, float_format="%.6g")
            write_text(tmp_path / f"{name}.csv", table)
        tables = measured.read_diagnostics(tmp_path, written)
        assert len(tables["choices"]) == len(tables["overlap"]) == 0

    def test_labels_that_are_cut_off_are_not_those_of_a_trial_that_stopped(self, ran: StudyFile) -> None:
        path = Path("results/tiny/small/data/entropy/seed1/round1/next_labeled.csv")
        lines = path.read_text().splitlines(keepends=True)
        for kept, words in ((7, "0 labels of round 2, not 6"), (12, "5 labels of round 2, not 6")):
            path.write_text("".join(lines[:kept]))
            for compute in (diagnostics.calibration, diagnostics.choices, diagnostics.overlap, score_loss.score_loss):
                with pytest.raises(UserError, match=rf"round1/next_labeled.csv: {words}; delete it and run again"):
                    compute(ran)

    def test_scores_against_the_true_loss(self, ran: StudyFile) -> None:
        """Scores that turn two neighbours of twenty around: 1 - 6 * 2 / (20 * 399)."""
        rows = "".join(f"{index},{index + 1}e-05,{loss}\n" for index, loss in enumerate([2, 1, *range(3, 21)]))
        self.path("entropy").write_text("index,score,loss\n" + rows)
        found = score_loss.score_loss(ran)
        assert found.columns.tolist() == [
            "budget", "dataset", "strategy", "seed", "round", "labels", "score", "correlation",
        ]  # fmt: skip
        assert found[["strategy", "seed", "round", "labels", "score"]].to_numpy().tolist() == [
            ["entropy", 1, 1, 6, "entropy"], ["random", 1, 1, 6, "random"],
        ]  # fmt: skip
        assert found["correlation"].tolist() == pytest.approx([1 - 12 / (20 * 399), np.nan], nan_ok=True)
        (text, part) = page.parts(score_loss.over_seeds(found), ran)
        assert "Random labelling uses no model" in " ".join(text.text)
        assert part.heading == "Digits (8x8), small budget, 1 seed"
        assert part.text == ("Over all 20 test examples.",)
        assert part.head == ("strategy and score", "6 labels")
        assert part.rows == [("Entropy\nentropy", "0.998")]
        self.path("entropy").write_text("index,score,loss\n" + rows.replace(",5e-05", ",nan"))
        found = score_loss.score_loss(ran)
        assert found["correlation"].isna().all(), "ranks of the other images alone would not show where it failed"
        (text,) = page.parts(score_loss.over_seeds(found), ran)
        assert "This study has no such score" in text.text[-1]
        assert score_loss.over_seeds(found.iloc[:0]).empty, "a study of a single round asks nothing"

    def test_what_the_query_wrote_is_what_is_read(self, ran: StudyFile, data: DatasetArrays) -> None:
        """The oracle is the round's test logits, of all test examples since there are no more than are drawn."""
        logits = np.load("results/tiny/small/data/start/seed1/plain/test_logits.npy")
        entropies, losses = choices.entropies(logits), choices.losses(logits, data.splits["test"].labels)
        found = score_loss.score_loss(ran)["correlation"][0]
        assert found == pytest.approx(stats.spearmanr(entropies, losses).statistic)
        assert found == pytest.approx(diagnostics.calibration(ran)["entropy_loss_correlation"][0])

    def test_a_cut_off_file_of_test_scores_is_told(self, ran: StudyFile) -> None:
        text = self.path("entropy").read_text()
        self.path("entropy").write_text(text[: text.index("\n", 200) + 1])
        with pytest.raises(UserError, match=r"round1/test_scores.csv: scores of \d+ test examples, not of 20"):
            score_loss.score_loss(ran)

    @staticmethod
    def path(strategy: str) -> Path:
        return Path(f"results/tiny/small/data/{strategy}/seed1/round1/test_scores.csv")

    def test_the_command_writes_all_tables_and_the_page(
        self, ran: StudyFile, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(ran.model_dump(by_alias=True, mode="json")))
        record_settings(Layout(ran.study))
        assert lplgrad("diagnostics", "--study", tmp_path / "study.yaml", "--output", tmp_path / "out") == (0, "")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            "calibration.csv", "choices.csv", "overlap.csv", "score_loss.csv", "score_loss_summary.csv",
            "score_loss.html",
        }  # fmt: skip

    def test_a_damaged_file_is_told(self, ran: StudyFile) -> None:
        root = Path("results/tiny/small/data/entropy/seed1")
        (root / "round2/test_logits.npy").write_bytes(b"no array")
        with pytest.raises(UserError, match=r"round2/test_logits.npy: not a whole array"):
            diagnostics.calibration(ran)
        (root / "round1/scores.csv").write_text("index,score\n")
        with pytest.raises(UserError, match="the first line must be index,score,entropy"):
            diagnostics.choices(ran)
