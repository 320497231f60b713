"""What accuracy does not say, from the files of a study that ran on a small data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from lplgrad.arrays import DatasetArrays
from lplgrad.configuration import read_study
from lplgrad.errors import UserError
from lplgrad.report import diagnostics, score_loss
from lplgrad.settings import StudyFile
from tests.conftest import TRAIN

HOME = Path(__file__).parents[1]


def test_correlations_over_seeds() -> None:
    about = {"budget": "small", "dataset": "digits", "strategy": "entropy", "round": 2, "labels": 20}
    seeds = pd.DataFrame(
        [{**about, "seed": seed, "score": "entropy", "correlation": value} for seed, value in ((1, 0.5), (2, 0.7))]
    )
    found = score_loss.over_seeds(seeds).iloc[0]
    half = stats.t.ppf(0.975, 1) * 0.1  # the standard error of two values is half their distance
    assert found[["seeds", "mean", "low", "high"]].tolist() == pytest.approx([2, 0.6, 0.6 - half, 0.6 + half])


class TestArtifacts:
    @pytest.fixture
    def ran(
        self, data: DatasetArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Callable[..., Any]
    ) -> StudyFile:
        """A study of two strategies and two rounds, run by hand on the small data set."""
        monkeypatch.chdir(tmp_path)
        values = yaml.safe_load((HOME / "tests" / "tiny.yaml").read_text())
        values["data_dir"] = str(tmp_path)
        del values["model_figures"]
        values["run"] |= {"strategies": ["entropy", "random"], "seeds": [1], "datasets": ["data"]}
        values["datasets"] = {"data": values["datasets"]["digits"]}
        values["datasets"]["data"]["budgets"] = {"small": {"query_size": 6, "candidates": 30, "labels": 12}}
        file = StudyFile(study=read_study([HOME / "config.yaml"], values))
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
        expected = -log_p[np.arange(20), data.test.labels].mean()
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

    def test_a_stopped_chain_chooses_nothing_more(self, ran: StudyFile) -> None:
        path = Path("results/tiny/small/data/entropy/seed1/round1")
        lines = (path / "next_labeled.csv").read_text().splitlines()
        (path / "next_labeled.csv").write_text("\n".join(line for line in lines if not line.endswith(",2")) + "\n")
        (path / "scores.csv").write_text((path / "scores.csv").read_text().splitlines()[0] + "\n")
        assert diagnostics.choices(ran)["strategy"].tolist() == ["random"]
        assert diagnostics.overlap(ran).empty

    def test_scores_against_the_true_loss(
        self, ran: StudyFile, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        """Gradient norms rank all five losses, entropies turn one pair of neighbours around: 1 - 6 * 2 / 120."""
        wanted = {"budgets": ["small"], "datasets": ["data"], "strategies": ["entropy"], "rounds": [1, 2]}
        values = ran.study.model_dump(by_alias=True) | {"model_figures": wanted}
        file = StudyFile(study=read_study([], values))
        assert score_loss.score_loss(file).empty
        assert "No model was looked into" in str(
            score_loss.parts(score_loss.over_seeds(score_loss.score_loss(file)), file)
        )
        lines = "class,loss,entropy,gradient_norm,predicted_loss\n0,1,1,2,\n0,2,3,4,\n0,3,2,5,\n0,4,4,6,\n0,5,5,9,\n"
        Path("results/tiny/small/data/entropy/seed1/round2/observed.csv").write_text(lines)
        found = score_loss.score_loss(file)
        assert found[["round", "labels", "score"]].to_numpy().tolist() == [
            [2, 12, "gradient_norm"], [2, 12, "entropy"],
        ]  # fmt: skip
        assert found["correlation"].tolist() == pytest.approx([1, 0.9])
        (_, part) = score_loss.parts(score_loss.over_seeds(found), file)
        assert part.head == ("labels", "gradient norm", "entropy")
        assert part.rows == (("12", "1.00", "0.90"),)
        Path("results/tiny/small/data/entropy/seed1/round2/observed.csv").write_text("index,loss\n")
        with pytest.raises(UserError, match=r"observed.csv: column 'gradient_norm' is missing"):
            score_loss.score_loss(file)

    def test_the_command_writes_all_tables_and_the_page(
        self, ran: StudyFile, tmp_path: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(ran.model_dump(by_alias=True, mode="json")))
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
