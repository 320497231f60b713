"""The command line: a round by hand, what each command refuses, and what it imports."""

from __future__ import annotations

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
from tests.conftest import JOINT, POOL, TRAIN

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
        query(lplgrad, started, QUERY.replace("NAME", name))
        told = (started / "round1" / "scores.csv").read_bytes()
        labels = np.load(started / "data" / "train_labels.npy")
        np.save(started / "data" / "train_labels.npy", (labels + 1) % 4)
        query(lplgrad, started, QUERY.replace("NAME", name))
        assert (started / "round1" / "scores.csv").read_bytes() == told

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

    def test_of_train(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        lplgrad("start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", tmp_path / "labeled.csv")
        checkpoint = tmp_path / "x"
        checkpoint.write_bytes(b"xx")
        cases: list[tuple[dict[str, object], tuple[str, ...]]] = [
            ({"settings": "{trainin: 1}"}, ("--settings", "'trainin'", "'training'")),
            ({"settings": "{training: ["}, ("--settings", "line 1")),
            ({"number": 0}, ("--round: must be 1 or more",)),
            ({"seed": -1}, ("--seed",)),
            ({"number": 2}, ("--checkpoint: missing",)),
            ({"checkpoint": checkpoint}, ("--checkpoint: not wanted",)),
            ({"number": 2, "checkpoint": checkpoint}, (str(checkpoint), "not a whole safetensors file")),
            ({"labeled": tmp_path / "nothing"}, ("nothing: No such file or directory",)),
            ({"labeled": tmp_path}, ("Is a directory",)),
            ({"settings": TRAIN[:-1] + ", normalization: {mean: [0, 0], std: [1, 1]}}"}, ("2 channels", "1")),
            ({"settings": TRAIN[:-1] + ", compute: {device: cuda}}"}, ("compute.device: cuda", "no GPU")),
            ({"settings": TRAIN.replace("epochs: 2", "epochs: 2, learning_rate: 1e30")}, ("the loss is", "epoch")),
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
        status, told = train(lplgrad, started, TRAIN, 2, "out", checkpoint=checkpoint)
        assert status == 1
        single_line(told, str(checkpoint), "trained by another recipe")

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
                ("column 'budget' is missing",),
            ),
            (["table", "accuracy", "--measurements", "wrong.csv", "--output", "t.doc"], ("must end in .csv or .html",)),
            (["table", "accuracy", "--measurements", "none.csv", "--output", "t.csv"], ("none.csv", "No such file")),
            (["measurements", "--output", "."], ("metrics.json: No such file or directory",)),
        ]:
            placed = [tmp_path / word if "." in word else word for word in arguments]
            status, told = lplgrad(placed[0], *placed[1:], "--study", study)
            assert status == 1
            single_line(told, *words)


@pytest.mark.parametrize("job", ["train", "entropy", "gradient_norm", "random"])
def test_a_job_imports_no_more_than_torch(started: Path, job: str) -> None:
    """Starting is what a small job costs. The compiler behind torch and sympy take a second or more to import."""
    common = ["--data", "data", "--labeled", "labeled.csv", "--round", "1", "--seed", "1", "--output", "out"]
    if job == "train":
        arguments = ["train", *common, "--settings", JOINT]
    else:
        arguments = ["query", *common, "--settings", QUERY.replace("NAME", job)]
        arguments += ["--checkpoint", "round1/checkpoint.safetensors"]
    heavy = {"torch._dynamo", "torch._inductor", "sympy", "pandas", "seaborn", "matplotlib", "sklearn", "snakemake"}
    heavy |= {"torchvision", "scipy"} | ({"torch"} if job == "random" else set())
    script = (
        f"import sys; from lplgrad.cli import main; status = main({arguments!r});"
        f"sys.exit(status or ' '.join({heavy!r} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=started, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
