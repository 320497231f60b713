"""What each command refuses, in one line, and what it does when the machine fails it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lplgrad.cli import main
from lplgrad.datasets.prepared.arrays import DatasetArrays
from tests.by_hand import QUERY, Call, first_round, of_round, query, train
from tests.conftest import JOINT, POOL, TRAIN

RESNET18 = "{backbone: {name: resnet18, width: 4}, training: {epochs: 1, batch_size: 5, milestones: []}}"


@pytest.fixture
def started(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> Path:
    return first_round(lplgrad, tmp_path)


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
        cut: dict[int, dict[str, object]] = {}
        for number in (2, 3):
            path = tmp_path / f"cut{number}.csv"
            path.write_text("".join(of_round(number, tmp_path).read_text().splitlines(keepends=True)[:-1]))
            cut[number] = {"number": number, "labeled": path, "checkpoint": checkpoint}
        cases: list[tuple[dict[str, object], tuple[str, ...]]] = [
            ({"settings": "{trainin: 1}"}, ("--settings", "'trainin'", "'training'")),
            ({"settings": "{training: ["}, ("--settings", "line 1")),
            ({**second}, ("--checkpoint: missing",)),
            ({"checkpoint": checkpoint}, ("--checkpoint: not wanted",)),
            ({"number": 2, "checkpoint": checkpoint}, ("labeled.csv: the labels of round 1, not of round 2",)),
            ({**cut[2], "bought": [3, 6]}, ("cut2.csv: 2 labels of round 2, not 3; delete it",)),
            ({**cut[3]}, ("cut3.csv: 1 labels of round 3, not 2; delete it",)),
            ({"bought": [7]}, ("labeled.csv: 6 labels of round 1, not 7; delete it",)),
            ({"bought": [2, 6]}, ("labeled.csv: 6 labels of round 1, not 2; delete it",)),
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
                {"settings": RESNET18},
                ("training.batch_size: 5 leaves one of 6 examples over",),
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

    @pytest.mark.parametrize(
        ("option", "value", "words"),
        [
            ("--round", 0, "must be 1 or more, not 0"),
            ("--jobs-per-gpu", -1, "must be 1 or more, not -1"),
            ("--seed", -1, "must be from 0 to 4294967295, not -1"),
            ("--seed", 2**32, "must be from 0 to 4294967295"),
            ("--seed", "x", "invalid seed value: 'x'"),
            ("--progress-seconds", "nan", "must be 0 or more, not nan"),
            ("--target-accuracy", 2, "must lie in (0, 1], not 2"),
        ],
    )
    def test_of_an_argument(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: object, words: str
    ) -> None:
        given = {
            "--data": "d",
            "--labeled": "l",
            "--round": 1,
            "--seed": 1,
            "--output": tmp_path / "out",
            option: value,
        }
        with pytest.raises(SystemExit, match="2"):
            main(["train", *(str(word) for pair in given.items() for word in pair)])
        single_line(capsys.readouterr().err, f"lplgrad train: error: argument {option}: {words}")
        assert not (tmp_path / "out").exists()

    def test_of_query(self, started: Path, lplgrad: Call) -> None:
        entropy = QUERY.replace("NAME", "entropy")
        for settings, changes, words in [
            (entropy, {"checkpoint": None}, ("--checkpoint: missing: entropy scores with a model",)),
            (QUERY.replace("NAME", "entropi"), {}, ("'entropi'", "did you mean 'entropy'?")),
            (entropy.replace("30", "55"), {}, (f"only 54 of {POOL} examples are left",)),
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
        single_line(
            told,
            "checkpoint.safetensors",
            "was trained by the recipe 'plain' with the backbone 'small_resnet', which does not offer predicted_loss",
        )

    def test_badge_refuses_a_checkpoint_without_a_linear_head(self, started: Path, lplgrad: Call) -> None:
        status, told = train(lplgrad, started, TRAIN[:-1] + ", recipe: {trains: nce_net}}")
        assert status == 0, told
        status, told = query(lplgrad, started, QUERY.replace("NAME", "badge"), output="out")
        assert status == 1
        single_line(told, "checkpoint.safetensors", "which does not offer linear_head; badge needs it")

    def test_weights_that_are_no_numbers_are_told(self, started: Path, lplgrad: Call) -> None:
        path = started / "round1" / "checkpoint.safetensors"
        from lplgrad.rounds.checkpoints import FORMAT, read_tensors, write_tensors

        states, description = read_tensors(path, FORMAT)
        states["model/fc.bias"][0] = float("nan")
        write_tensors(path, states, {**description, "format": FORMAT})
        status, told = query(lplgrad, started, QUERY.replace("NAME", "entropy"), output="out")
        assert status == 1
        single_line(told, str(path), "30 of 30 scores are not finite")
        assert not (started / "out").exists()

    def test_another_recipes_checkpoint(self, started: Path, lplgrad: Call) -> None:
        checkpoint = started / "round1" / "checkpoint.safetensors"
        status, told = train(lplgrad, started, TRAIN, 2, "out", checkpoint=checkpoint, labeled=of_round(2, started))
        assert status == 1
        single_line(told, str(checkpoint), "other recipe than expected (joint, not plain)")

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (JOINT.replace("width: 4", "width: 8"), ("other backbone than expected", "width=4", "width=8")),
            (JOINT[:-1] + ", normalization: {mean: [0.5], std: [1]}}", ("other normalization than expected",)),
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
        single_line(told, "other classes than expected")

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

    def test_of_start(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        output = tmp_path / "labeled.csv"
        for given, words in [
            (["--size", 61], ("start: 61 examples are to be labelled, but the pool has 60",)),
            (["--size", 8, "--labels", 15], ("the budget: labels: 15 does not fit", "nearest that fit are 14 and 20")),
            (["--size", 8, "--labels", 62], ("labels: 62 is more than the 60 examples of the training pool",)),
        ]:
            status, told = lplgrad(
                "start", "--data", data.folder, "--query-size", 6, *given, "--seed", 1, "--output", output
            )
            assert status == 1
            single_line(told, "lplgrad start: error: ", *words)
            assert not output.exists()

    def test_a_directory_where_a_file_belongs(self, data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> None:
        (tmp_path / "labeled.csv").mkdir()
        status, told = lplgrad(
            "start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", tmp_path / "labeled.csv"
        )
        assert status == 1
        single_line(told, "is a folder, but a file must be written here")

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

    monkeypatch.setattr("lplgrad.study.schema.run", full)
    assert main(["schema"]) == 1
    single_line(capsys.readouterr().err, "lplgrad schema: error: out of memory", words, "compute.jobs_per_gpu")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_another_error_is_raised(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(arguments: object) -> None:
        raise error

    monkeypatch.setattr("lplgrad.study.schema.run", fails)
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
