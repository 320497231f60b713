"""The command line: a round by hand, and what it imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lplgrad.cli import COMMANDS, main, parser
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.machine.files import file_digest, write_json
from lplgrad.rounds.checkpoints import load
from lplgrad.rounds.oracle import pool_labels
from tests.by_hand import QUERY, Call, first_round, of_round, query, train
from tests.conftest import JOINT, replace_array


@pytest.fixture
def started(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> Path:
    return first_round(lplgrad, tmp_path)


class TestHelp:
    def test_lists_a_command_for_every_rule(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        told = capsys.readouterr().out
        assert re.findall(r"^    (\w+)", told, re.MULTILINE) == list(COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_shows_an_example_that_parses(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        import shlex

        example = capsys.readouterr().out.split("example:\n")[1].replace("\\\n", " ")
        words = shlex.split(example)
        assert words[:2] == ["lplgrad", command]
        parser().parse_args(words[1:])

    def test_imports_next_to_nothing(self) -> None:
        script = (
            "import sys; from lplgrad.cli import parser; parser().format_help();"
            "sys.exit(' '.join({'torch', 'numpy', 'pydantic', 'pandas', 'yaml'} & set(sys.modules)) or 0)"
        )
        subprocess.run([sys.executable, "-c", script], check=True)


class TestRound:
    def test_digits_from_the_source(self, tmp_path: Path, lplgrad: Call) -> None:
        status, told = lplgrad("prepare", "--settings", "{source: digits}", "--output", tmp_path / "digits")
        assert status == 0
        assert "1200 training and 597 test examples of 8x8x1 in 10 classes" in told
        digits = open_dataset(tmp_path / "digits")
        from sklearn.datasets import load_digits

        everything = np.concatenate([digits.splits["train"].inputs, digits.splits["test"].inputs])[..., 0]
        assert np.array_equal(
            np.sort(everything.sum((1, 2))), np.sort(np.rint(load_digits().images * 255 / 16).sum((1, 2)))
        )
        counts = np.bincount(digits.splits["test"].labels) / np.bincount(pool_labels(digits))
        assert counts == pytest.approx(597 / 1200, rel=0.03), "classes in proportion"

    def test_training_measures_and_writes(self, started: Path) -> None:
        metrics = json.loads((started / "round1" / "metrics.json").read_text())
        logits = np.load(started / "round1" / "test_logits.npy")
        labels = open_dataset(started / "data").splits["test"].labels
        assert metrics["labels"] == 6
        assert metrics["accuracy"] == (logits.argmax(1) == labels).mean()
        assert list(metrics["accuracy_per_class"]) == ["class0", "class1", "class2", "class3"]
        assert np.mean(list(metrics["accuracy_per_class"].values())) == pytest.approx(metrics["accuracy"])
        timing = json.loads((started / "round1" / "timing.json").read_text())
        assert timing["train_seconds"] > 0
        assert timing["peak_memory_mb"] > 0
        assert timing["versions"]["torch"] == torch.__version__

    @pytest.mark.parametrize(
        ("call", "settings", "name"),
        [(train, JOINT, "settings.json"), (query, QUERY.replace("NAME", "entropy"), "query_settings.json")],
    )
    def test_a_file_that_changes_while_a_job_runs_is_recorded_as_it_was_read(
        self, started: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch, call: Call, settings: str, name: str
    ) -> None:
        labeled = started / "labeled.csv"
        read = file_digest(labeled)

        def write(path: Path, values: Mapping[str, Any]) -> None:
            labeled.write_text("index,round,label\n1,1,0\n")
            write_json(path, values)

        module = "training" if call is train else "query"
        monkeypatch.setattr(f"lplgrad.rounds.{module}.write_json", write)  # how a job writes its seconds
        assert call(lplgrad, started, settings)[0] == 0
        assert file_digest(labeled) != read
        assert json.loads((started / "round1" / name).read_text())["labeled"] == read

    @pytest.mark.parametrize("name", ["random", "entropy", "gradient_norm", "predicted_loss", "coreset"])
    def test_every_query_adds_the_best_candidates(self, started: Path, lplgrad: Call, name: str) -> None:
        assert query(lplgrad, started, QUERY.replace("NAME", name))[0] == 0
        scores = pd.read_csv(started / "round1" / "scores.csv")
        before = pd.read_csv(started / "labeled.csv")
        after = pd.read_csv(started / "round1" / "next_labeled.csv")
        assert len(scores) == 30
        assert not set(scores["index"]) & set(before["index"])
        best = scores.sort_values("score", ascending=False, kind="stable").head(6)["index"]
        assert sorted(best) == after.loc[after["round"] == 2, "index"].tolist()
        assert after.loc[after["round"] == 1, "index"].tolist() == before["index"].tolist()
        assert scores["entropy"].isna().all() == (name == "random")
        timing = json.loads((started / "round1" / "query_timing.json").read_text())
        assert ("torch" in timing["versions"]) == (name != "random")

    @pytest.mark.parametrize("name", ["random", "entropy", "gradient_norm", "predicted_loss", "coreset"])
    def test_no_label_of_a_candidate_is_read(self, started: Path, lplgrad: Call, name: str) -> None:
        assert query(lplgrad, started, QUERY.replace("NAME", name), "one")[0] == 0
        labels = np.load(started / "data" / "train_labels.npy")
        replace_array(started / "data", "train_labels", (labels + 1) % 4)
        assert query(lplgrad, started, QUERY.replace("NAME", name), "other")[0] == 0
        assert (started / "one" / "scores.csv").read_bytes() == (started / "other" / "scores.csv").read_bytes()

    def test_the_same_command_writes_the_same_bytes(self, started: Path, lplgrad: Call) -> None:
        assert train(lplgrad, started, JOINT, output="again")[0] == 0
        for name in ("checkpoint.safetensors", "test_logits.npy", "metrics.json"):
            assert (started / "again" / name).read_bytes() == (started / "round1" / name).read_bytes()

    def test_warm_trains_on_and_fresh_starts_anew(self, started: Path, lplgrad: Call) -> None:
        query(lplgrad, started, QUERY.replace("NAME", "entropy"))
        labeled = started / "round1" / "next_labeled.csv"
        before = started / "round1" / "checkpoint.safetensors"
        still = JOINT.replace("milestones: []", "milestones: [], learning_rate: 1.0e-30, weight_decay: 0")
        fresh = still.replace("trains: joint", "trains: joint, init: fresh")
        assert train(lplgrad, started, still, 2, "warm", labeled=labeled, checkpoint=before)[0] == 0
        assert train(lplgrad, started, fresh, 2, "fresh", labeled=labeled)[0] == 0

        def weights(folder: str) -> list[torch.Tensor]:
            found = load(started / folder / "checkpoint.safetensors").learner
            return [p.detach() for network in found.networks.values() for p in network.parameters()]

        for a, b in zip(weights("warm"), weights("round1"), strict=True):
            assert torch.equal(a, b)
        assert not all(torch.equal(a, b) for a, b in zip(weights("fresh"), weights("round1"), strict=True))

    def test_every_round_has_batches_of_its_own(self, started: Path, lplgrad: Call) -> None:
        fresh = JOINT.replace("trains: joint", "trains: joint, init: fresh").replace("epochs: 2", "epochs: 1")
        checkpoints = []
        for number in (2, 3):
            labeled = of_round(number, started)
            assert train(lplgrad, started, fresh, number, f"round{number}", labeled=labeled)[0] == 0
            checkpoints.append(json.loads((started / f"round{number}" / "metrics.json").read_text())["train_loss"])
        assert checkpoints[0] != checkpoints[1]

    def test_the_query_normalises_as_the_model_was_trained(self, started: Path, lplgrad: Call) -> None:
        assert query(lplgrad, started, QUERY.replace("NAME", "entropy"), "one")[0] == 0
        described = json.loads((started / "data" / "dataset.json").read_text())
        (started / "data" / "dataset.json").write_text(json.dumps({**described, "mean": [0.9], "std": [0.01]}))
        assert query(lplgrad, started, QUERY.replace("NAME", "entropy"), "other")[0] == 0
        assert (started / "one" / "scores.csv").read_bytes() == (started / "other" / "scores.csv").read_bytes()

    def test_predictions_do_not_depend_on_how_images_are_batched(self, started: Path) -> None:
        from lplgrad.rounds.evaluation import predict

        found = load(started / "round1" / "checkpoint.safetensors").learner
        images = torch.randn(12, 1, 8, 8)
        for network in found.networks.values():
            network.train()
        running = found.model.get_buffer("bn1.running_mean")
        before = running.clone()
        together = predict(found, [images])["logits"]
        apart = predict(found, images.split(1))["logits"]
        assert torch.allclose(together, apart, atol=1e-5)
        assert torch.equal(running, before)

    def test_looking_into_a_model(self, started: Path, lplgrad: Call) -> None:
        labeled, round1 = started / "labeled.csv", started / "round1"
        status, _ = lplgrad(
            "observe", "--data", started / "data", "--labeled", labeled, "--checkpoint",
            round1 / "checkpoint.safetensors", "--seed", 1, "--output", round1, "--settings",
            "{embedded_images: 7, unlabeled_images: 20}",
        )  # fmt: skip
        assert status == 0
        observed = pd.read_csv(round1 / "observed.csv")
        test = open_dataset(started / "data").splits["test"]
        assert np.array_equal(test.labels[observed["index"]], observed["class"])
        logits = np.load(round1 / "test_logits.npy")[observed["index"]].astype(np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        chances = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
        assert observed["loss"].to_numpy() == pytest.approx(-np.log(chances[range(7), observed["class"]]), rel=1e-4)
        assert observed["entropy"].to_numpy() == pytest.approx(-(chances * np.log(chances)).sum(axis=1), rel=1e-4)
        assert (observed["gradient_norm"] > 0).all()
        assert observed["predicted_loss"].notna().all()
        assert np.load(round1 / "features.npy").shape == (7, 16)
        asked = pd.read_csv(round1 / "confidence.csv")
        bought = set(pd.read_csv(labeled)["index"])
        assert set(asked[asked["labeled"] == 1]["index"]) == bought
        assert not set(asked[asked["labeled"] == 0]["index"]) & bought
        assert (asked["labeled"] == 0).sum() == 20
        # The confidence is that of the same model where a query asked the same image.
        query(lplgrad, started, QUERY.replace("NAME", "entropy").replace("30", "all"))
        both = asked.merge(pd.read_csv(round1 / "scores.csv"), on="index")
        assert len(both) == 20
        assert both["confidence_x"].to_numpy() == pytest.approx(both["confidence_y"].to_numpy(), rel=1e-4)

    def test_a_trial_stops_at_its_target_accuracy(self, started: Path, lplgrad: Call) -> None:
        round1, round2 = started / "round1", started / "round2"
        accuracy = json.loads((round1 / "metrics.json").read_text())["accuracy"]
        entropy, common = QUERY.replace("NAME", "entropy"), ["--data", started / "data", "--round", 2, "--seed", 1]
        asked = [
            "query", "--data", started / "data", "--labeled", started / "labeled.csv", "--round", 1, "--seed", 1,
            "--settings", entropy, "--checkpoint", round1 / "checkpoint.safetensors", "--metrics",
            round1 / "metrics.json", "--output", round1,
        ]  # fmt: skip
        assert lplgrad(*asked, "--target-accuracy", accuracy + 0.01)[0] == 0
        assert (round1 / "next_labeled.csv").read_bytes() != (started / "labeled.csv").read_bytes()
        assert lplgrad(*asked, "--target-accuracy", accuracy)[0] == 0
        assert (round1 / "next_labeled.csv").read_bytes() == (started / "labeled.csv").read_bytes()
        assert len(pd.read_csv(round1 / "scores.csv")) == 0
        assert json.loads((round1 / "query_settings.json").read_text())["labels"] is None
        repeated = [
            "train", *common, "--labeled", round1 / "next_labeled.csv", "--settings", JOINT, "--checkpoint",
            round1 / "checkpoint.safetensors", "--previous", round1, "--target-accuracy", accuracy, "--output", round2,
        ]  # fmt: skip
        settings = json.loads((round1 / "settings.json").read_text())
        (round1 / "settings.json").write_text(json.dumps({**settings, "versions": {}}))
        status, told = lplgrad(*repeated)
        assert status == 1
        assert f"{round1 / 'settings.json'}: no version of PyTorch in it" in told
        assert not (round2 / "metrics.json").exists(), "a round with metrics counts as finished"
        settings["versions"]["torch"] = "1.2.3"
        (round1 / "settings.json").write_text(json.dumps(settings))
        assert lplgrad(*repeated)[0] == 0
        metrics = json.loads((round2 / "metrics.json").read_text())
        assert (metrics["stopped"], metrics["round"], metrics["labels"]) == (True, 2, 6)
        assert json.loads((round2 / "timing.json").read_text())["train_seconds"] == 0
        settings = json.loads((round2 / "settings.json").read_text())
        assert (settings["labels"], settings["versions"]["torch"]) == (None, "1.2.3"), "that trained what is repeated"
        for name in ("checkpoint.safetensors", "test_logits.npy"):
            assert (round2 / name).read_bytes() == (round1 / name).read_bytes()

    def test_augmented_candidates_score_otherwise(self, started: Path, lplgrad: Call) -> None:
        plain = QUERY.replace("NAME", "entropy")
        query(lplgrad, started, plain)
        without = (started / "round1" / "scores.csv").read_bytes()
        query(lplgrad, started, plain[:-1] + ", query_transform: train, augmentation: {crop_padding: 2}}")
        assert (started / "round1" / "scores.csv").read_bytes() != without


@pytest.mark.parametrize("job", ["start", "train", "entropy", "gradient_norm", "random"])
def test_a_job_imports_no_more_than_torch(started: Path, job: str) -> None:
    """Starting is what a small job costs. The compiler behind torch and sympy take a second or more to import."""
    common = ["--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1", "--output", "out"]
    if job == "start":
        arguments = ["start", "--data", "data", "--query-size", "8", "--seed", "1", "--output", "drawn.csv"]
    elif job == "train":
        arguments = ["train", *common, "--settings", JOINT]
    else:
        arguments = ["query", *common, "--settings", QUERY.replace("NAME", job)]
        arguments += ["--checkpoint", "round1/checkpoint.safetensors"]
    heavy = {"torch._dynamo", "torch._inductor", "sympy", "pandas", "seaborn", "matplotlib", "sklearn", "snakemake"}
    heavy |= {"torchvision", "scipy"} | ({"torch"} if job in ("start", "random") else set())
    script = (
        f"import sys; from lplgrad.cli import main; status = main({arguments!r});"
        f"sys.exit(status or ' '.join({heavy!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=started, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
