"""The command line: a round by hand, what each command refuses, and what it imports."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lplgrad import networks
from lplgrad.arrays import DatasetArrays, open_dataset
from lplgrad.cli import COMMANDS, main, parser
from tests.conftest import JOINT, POOL, TRAIN, replace_array

Call = Callable[..., tuple[int, str]]
QUERY = "{acquisition: NAME, query_size: 6, candidates: 30}"


@pytest.fixture
def started(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> Path:
    """A folder with a data set, the labels of round 1 and its joint training."""
    labeled = tmp_path / "labeled.csv"
    assert lplgrad("start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", labeled)[0] == 0
    assert train(lplgrad, tmp_path, JOINT)[0] == 0
    return tmp_path


def train(
    lplgrad: Call, folder: Path, settings: str, number: int = 1, output: str = "round1", **more: object
) -> tuple[int, str]:
    arguments: list[object] = [
        "train", "--data", folder / "data", "--labeled", more.pop("labeled", folder / "labeled.csv"),
        "--round", number, "--seed", more.pop("seed", 1), "--settings", settings, "--output", folder / output,
    ]  # fmt: skip
    for option, value in more.items():
        arguments += [f"--{option}", value]
    return lplgrad(*arguments)


def query(lplgrad: Call, folder: Path, settings: str, output: str = "round1", **more: object) -> tuple[int, str]:
    arguments: list[object] = [
        "query", "--data", folder / "data", "--labeled", folder / "labeled.csv", "--round", more.pop("round", 1),
        "--seed", 1, "--settings", settings, "--output", folder / output,
    ]  # fmt: skip
    checkpoint = more.pop("checkpoint", folder / "round1" / "checkpoint.safetensors")
    return lplgrad(*arguments, *(["--checkpoint", checkpoint] if checkpoint else []))


def of_round(number: int, folder: Path) -> Path:
    """The labels of round 1, as if the rounds up to another had bought as many of them each."""
    path = folder / f"labeled{number}.csv"
    head, *rows = (folder / "labeled.csv").read_text().splitlines()
    indices = [row.split(",")[0] for row in rows]
    path.write_text(f"{head}\n" + "".join(f"{i},{1 + k * number // len(rows)}\n" for k, i in enumerate(indices)))
    return path


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
        assert "1200 training and 597 test images of 8x8x1 in 10 classes" in told
        digits = open_dataset(tmp_path / "digits")
        from sklearn.datasets import load_digits

        everything = np.concatenate([digits.train.images, digits.test.images])[..., 0]
        assert np.array_equal(
            np.sort(everything.sum((1, 2))), np.sort(np.rint(load_digits().images * 255 / 16).sum((1, 2)))
        )
        counts = np.bincount(digits.test.labels) / np.bincount(digits.train.labels)
        assert counts == pytest.approx(597 / 1200, rel=0.03), "classes in proportion"

    def test_training_measures_and_writes(self, started: Path) -> None:
        metrics = json.loads((started / "round1" / "metrics.json").read_text())
        logits = np.load(started / "round1" / "test_logits.npy")
        labels = open_dataset(started / "data").test.labels
        assert metrics["labels"] == 6
        assert metrics["accuracy"] == (logits.argmax(1) == labels).mean()
        assert list(metrics["accuracy_per_class"]) == ["class0", "class1", "class2", "class3"]
        assert np.mean(list(metrics["accuracy_per_class"].values())) == pytest.approx(metrics["accuracy"])
        timing = json.loads((started / "round1" / "timing.json").read_text())
        assert timing["train_seconds"] > 0
        assert timing["peak_memory_mb"] > 0
        assert timing["versions"]["torch"] == torch.__version__

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
        fresh = still.replace("auxiliary: true", "auxiliary: true, init: fresh")
        assert train(lplgrad, started, still, 2, "warm", labeled=labeled, checkpoint=before)[0] == 0
        assert train(lplgrad, started, fresh, 2, "fresh", labeled=labeled)[0] == 0

        def weights(folder: str) -> list[torch.Tensor]:
            found = networks.load(started / folder / "checkpoint.safetensors").networks
            return [p.detach() for network in found.named().values() for p in network.parameters()]

        for a, b in zip(weights("warm"), weights("round1"), strict=True):
            assert torch.equal(a, b)
        assert not all(torch.equal(a, b) for a, b in zip(weights("fresh"), weights("round1"), strict=True))

    def test_every_round_has_batches_of_its_own(self, started: Path, lplgrad: Call) -> None:
        fresh = JOINT.replace("auxiliary: true", "auxiliary: true, init: fresh").replace("epochs: 2", "epochs: 1")
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
        from lplgrad.evaluation import predict

        found = networks.load(started / "round1" / "checkpoint.safetensors").networks
        images = torch.randn(12, 1, 8, 8)
        for network in found.named().values():
            network.train()
        running = found.model.bn1.running_mean
        assert isinstance(running, torch.Tensor)
        before = running.clone()
        together = predict(found, [images]).logits
        apart = predict(found, images.split(1)).logits
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
        test = open_dataset(started / "data").test
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
        settings = json.loads((round1 / "settings.json").read_text())
        settings["versions"]["torch"] = "1.2.3"
        (round1 / "settings.json").write_text(json.dumps(settings))
        status, _ = lplgrad(
            "train", *common, "--labeled", round1 / "next_labeled.csv", "--settings", JOINT, "--checkpoint",
            round1 / "checkpoint.safetensors", "--previous", round1, "--target-accuracy", accuracy, "--output", round2,
        )  # fmt: skip
        assert status == 0
        metrics = json.loads((round2 / "metrics.json").read_text())
        assert (metrics["stopped"], metrics["round"], metrics["labels"]) == (True, 2, 6)
        assert json.loads((round2 / "timing.json").read_text())["train_seconds"] == 0
        repeated = json.loads((round2 / "settings.json").read_text())
        assert (repeated["labels"], repeated["versions"]["torch"]) == (None, "1.2.3"), "that trained what is repeated"
        for name in ("checkpoint.safetensors", "test_logits.npy"):
            assert (round2 / name).read_bytes() == (round1 / name).read_bytes()

    def test_augmented_candidates_score_otherwise(self, started: Path, lplgrad: Call) -> None:
        plain = QUERY.replace("NAME", "entropy")
        query(lplgrad, started, plain)
        without = (started / "round1" / "scores.csv").read_bytes()
        query(lplgrad, started, plain[:-1] + ", query_transform: train, augmentation: {crop_padding: 2}}")
        assert (started / "round1" / "scores.csv").read_bytes() != without


def single_line(told: str, *words: str) -> None:
    lines = told.strip().splitlines()
    assert "Traceback" not in told
    assert [line for line in lines if ": error: " in line] == lines[-1:], told
    for word in words:
        assert word in lines[-1], lines[-1]


class TestRefusals:
    """Whatever a user gets wrong: one line, status 1, nothing written."""

    @pytest.mark.parametrize("name", ["data/dataset.json", "labeled.csv", "round1/checkpoint.safetensors"])
    def test_a_clock_that_was_set_back(self, started: Path, lplgrad: Call, name: str) -> None:
        """Snakemake would discard, after the work, what is older than its inputs."""
        changed = (started / name).stat().st_mtime + 86_400
        os.utime(started / name, (changed, changed))
        status, told = query(lplgrad, started, QUERY.replace("NAME", "entropy"))
        assert status == 1
        single_line(told, name, "is dated 24.0 hours ahead of this machine's clock", "docs/cluster.md")
        assert not (started / "round1" / "scores.csv").exists()
        if not name.startswith("round1"):
            status, told = train(lplgrad, started, JOINT, output="again")
            assert status == 1
            single_line(told, name, "is dated 24.0 hours ahead of this machine's clock")

    def test_of_train(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        lplgrad("start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", tmp_path / "labeled.csv")
        checkpoint = tmp_path / "x"
        checkpoint.write_bytes(b"xx")
        second: dict[str, object] = {"number": 2, "labeled": of_round(2, tmp_path)}
        cut = tmp_path / "cut.csv"
        cut.write_text("".join(of_round(2, tmp_path).read_text().splitlines(keepends=True)[:-1]))
        cases: list[tuple[dict[str, object], tuple[str, ...]]] = [
            ({"settings": "{trainin: 1}"}, ("--settings", "'trainin'", "'training'")),
            ({"settings": "{training: ["}, ("--settings", "line 1")),
            ({"number": 0}, ("--round: must be 1 or more",)),
            ({"seed": -1}, ("--seed",)),
            ({"number": 2}, ("--checkpoint: missing",)),
            ({"checkpoint": checkpoint}, ("--checkpoint: not wanted",)),
            ({"number": 2, "checkpoint": checkpoint}, ("labeled.csv: the labels of round 1, not of round 2",)),
            ({**second, "labeled": cut, "checkpoint": checkpoint}, ("cut.csv: 2 labels of round 2, not 3; delete it",)),
            ({**second, "checkpoint": checkpoint}, (str(checkpoint), "not a whole safetensors file")),
            ({**second, "checkpoint": tmp_path / "none"}, ("none: No such file or directory",)),
            ({"labeled": tmp_path / "nothing"}, ("nothing: No such file or directory",)),
            ({"labeled": tmp_path}, ("Is a directory",)),
            ({"settings": TRAIN[:-1] + ", normalization: {mean: [0, 0], std: [1, 1]}}"}, ("2 channels", "1")),
            ({"settings": TRAIN[:-1] + ", compute: {device: cuda}}"}, ("compute.device: cuda", "no GPU")),
            ({"settings": TRAIN.replace("epochs: 2", "epochs: 2, learning_rate: 1e30")}, ("the loss is", "epoch")),
            (
                {"settings": TRAIN.replace("epochs: 2, batch_size: 8", "epochs: 1, learning_rate: 1e30")},
                ("the weights are not finite after epoch 1 of 1",),
            ),
            (
                {"settings": "{model: {width: 4}, training: {epochs: 1, batch_size: 5, milestones: []}}"},
                ("training.batch_size: 5 leaves one of 6 images over",),
            ),
        ]  # fmt: skip
        if torch.cuda.is_available():
            cases = [case for case in cases if "compute.device: cuda" not in case[1]]
        for changes, words in cases:
            settings = str(changes.pop("settings", TRAIN))
            status, told = train(lplgrad, tmp_path, settings, output="out", **changes)  # type: ignore[arg-type]
            assert status == 1
            single_line(told, "lplgrad train: error: ", *words)
            assert not (tmp_path / "out").exists()

    def test_of_query(self, started: Path, lplgrad: Call) -> None:
        entropy = QUERY.replace("NAME", "entropy")
        for settings, changes, words in [
            (entropy, {"checkpoint": None}, ("--checkpoint: missing: entropy asks a model",)),
            (QUERY.replace("NAME", "entropi"), {}, ("'entropi'", "did you mean 'entropy'?")),
            (entropy.replace("30", "55"), {}, (f"only 54 of {POOL} images are left",)),
            (entropy.replace("candidates: 30", "candidates: all").replace("6", "55"), {}, ("55", "only 54 are left")),
            (entropy[:-1] + ", options: {norm: sum}}", {}, ("--settings: options", "unknown key 'norm'")),
            ("{acquisition: entropy}", {}, ("--settings: query_size: is missing",)),
        ]:  # fmt: skip
            status, told = query(lplgrad, started, settings, output="out", **changes)
            assert status == 1
            single_line(told, "lplgrad query: error: ", *words)
            assert not (started / "out").exists()

    def test_a_plain_checkpoint_predicts_no_loss(self, started: Path, lplgrad: Call) -> None:
        train(lplgrad, started, TRAIN)
        status, told = query(lplgrad, started, QUERY.replace("NAME", "predicted_loss"), output="out")
        assert status == 1
        single_line(told, "checkpoint.safetensors", "needs a loss prediction module; it has none")

    def test_weights_that_are_no_numbers_are_told(self, started: Path, lplgrad: Call) -> None:
        path = started / "round1" / "checkpoint.safetensors"
        from lplgrad.artifacts import read_checkpoint, write_checkpoint

        states, description = read_checkpoint(path)
        states["model"]["fc.bias"][0] = float("nan")
        write_checkpoint(path, states, description)
        status, told = query(lplgrad, started, QUERY.replace("NAME", "entropy"), output="out")
        assert status == 1
        single_line(told, str(path), "30 of 30 scores are not finite")
        assert not (started / "out").exists()

    def test_another_recipes_checkpoint(self, started: Path, lplgrad: Call) -> None:
        checkpoint = started / "round1" / "checkpoint.safetensors"
        status, told = train(lplgrad, started, TRAIN, 2, "out", checkpoint=checkpoint, labeled=of_round(2, started))
        assert status == 1
        single_line(told, str(checkpoint), "trained by another recipe")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (JOINT.replace("width: 4", "width: 8"), ("its model are not those asked for", "width=4", "width=8")),
            (JOINT[:-1] + ", normalization: {mean: [0.5], std: [1]}}", ("its normalization are not those",)),
        ],
    )
    def test_a_checkpoint_of_other_settings(
        self, started: Path, lplgrad: Call, settings: str, words: tuple[str, ...]
    ) -> None:
        checkpoint = started / "round1" / "checkpoint.safetensors"
        status, told = train(lplgrad, started, settings, 2, "out", checkpoint=checkpoint, labeled=of_round(2, started))
        assert status == 1
        single_line(told, str(checkpoint), *words)

    def test_a_checkpoint_of_other_classes(self, started: Path, lplgrad: Call) -> None:
        described = json.loads((started / "data" / "dataset.json").read_text())
        described["classes"][0] = "another"
        (started / "data" / "dataset.json").write_text(json.dumps(described))
        status, told = query(lplgrad, started, QUERY.replace("NAME", "entropy"), output="out")
        assert status == 1
        single_line(told, "its classes are not those asked for")

    @pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
    def test_no_permission(self, data: DatasetArrays, tmp_path: Path) -> None:
        locked = tmp_path / "locked"
        locked.mkdir()
        locked.chmod(0o555)
        tmp_path.chmod(0o755)
        command = [
            sys.executable,
            "-m",
            "lplgrad",
            "start",
            "--data",
            str(data.folder),
            "--query-size",
            "6",
            "--seed",
            "1",
        ]
        if os.geteuid() == 0:
            for folder in [*tmp_path.parents][:3]:
                folder.chmod(0o755)
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
            if subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-c", ""]).returncode:
                pytest.skip("another user may not run this Python")
        done = subprocess.run([*command, "--output", str(locked / "labeled.csv")], capture_output=True, text=True)
        assert done.returncode == 1
        single_line(done.stderr, "Permission denied", str(locked))

    def test_a_full_disk(
        self, data: DatasetArrays, tmp_path: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        output = tmp_path / "out" / "labeled.csv"
        status, told = lplgrad("start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", output)
        assert status == 1
        single_line(told, f"{output}: No space left on device")
        assert not list((tmp_path / "out").iterdir())

    def test_a_directory_where_a_file_belongs(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        (tmp_path / "labeled.csv").mkdir()
        status, told = lplgrad(
            "start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", tmp_path / "labeled.csv"
        )
        assert status == 1
        single_line(told, "a directory stands where a file is to be written")

    def test_tables_and_figures(self, tmp_path: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        home = Path(__file__).parents[1]
        study = tmp_path / "study.yaml"
        assert lplgrad("study", home / "config.yaml", home / "demo.yaml", "--output", study)[0] == 0
        (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
        for arguments, words in [
            (
                ["table", "accuracy", "--measurements", "wrong.csv", "--output", "t.csv"],
                ("wrong.csv: the first line must be budget,dataset,strategy,",),
            ),
            (["table", "accuracy", "--measurements", "wrong.csv", "--output", "t.doc"], ("must end in .csv or .html",)),
            (["table", "accuracy", "--measurements", "none.csv", "--output", "t.csv"], ("none.csv", "No such file")),
            (["measurements", "--output", "."], ("metrics.json: missing: the study is not finished",)),
        ]:
            placed = [tmp_path / word if "." in word else word for word in arguments]
            status, told = lplgrad(placed[0], *placed[1:], "--study", study)
            assert status == 1
            single_line(told, *words)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "CUDA"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED\nwhen calling"), "(CUBLAS_STATUS_ALLOC_FAILED)"),
        (RuntimeError("unable to mmap 400 bytes from file <x>: Cannot allocate memory (12)"), "unable to mmap"),
        (MemoryError(), "out of memory; lower"),
        (MemoryError("Unable to allocate 1.00 TiB for an array"), "(Unable to allocate 1.00 TiB for an array)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "(Cannot allocate memory)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory", "a.npy"), "(a.npy: Cannot allocate memory)"),
    ],
    ids=repr,
)
def test_a_lack_of_memory_anywhere_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def full(arguments: object) -> None:
        raise error

    monkeypatch.setattr("lplgrad.commands.schema.run", full)
    assert main(["schema"]) == 1
    single_line(capsys.readouterr().err, "lplgrad schema: error: out of memory", words, "compute.jobs_per_gpu")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_another_error_is_raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(arguments: object) -> None:
        raise error

    monkeypatch.setattr("lplgrad.commands.schema.run", fails)
    with pytest.raises(type(error), match=str(error.args[-1])):
        main(["schema"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_log_that_cannot_be_written_ends_nothing(started: Path) -> None:
    """On a full disk the results may still fit, or be made room for."""
    common = ["--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1", "--output", "out"]
    with Path("/dev/full").open("w") as log:
        command = [sys.executable, "-m", "lplgrad", "train", *common, "--settings", TRAIN]
        assert subprocess.run(command, cwd=started, stdout=log, stderr=log).returncode == 0
        command = [sys.executable, "-m", "lplgrad", "train", *common, "--settings", "nonsense"]
        assert subprocess.run(command, cwd=started, stdout=log, stderr=log).returncode == 1
    assert (started / "out" / "metrics.json").exists()


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
