"""Training taken up again: the same bytes as undisturbed, from sound files of the same training only."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine import timing
from lplgrad.machine.errors import UserError
from lplgrad.machine.signals import Interrupted, deferred
from lplgrad.recipes import Learner
from lplgrad.rounds import resume
from lplgrad.rounds.checkpoints import read_tensors, write_tensors
from lplgrad.rounds.files import PROGRESS
from lplgrad.rounds.loop import Epoch, State, train
from lplgrad.rounds.resume import Progress, restore
from lplgrad.study.settings import BackboneRow, RecipeRow, Training
from tests import conftest
from tests.conftest import TRAIN
from tests.learners import JOINT, PLAIN, SMALL, draws_of, learner_of, same, state

EPOCHS = 6
DROPOUT = BackboneRow.model_validate({"name": "small_resnet", "width": 4, "dropout": 0.5})
ADAMW = {"optimizer": "adamw", "schedule": "cosine", "milestones": [], "learning_rate": 0.01, "warmup_epochs": 2}
Call = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads than free cores make tiny steps a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begin(
    progress: Progress | None,
    recipe: RecipeRow = JOINT,
    backbone: BackboneRow = SMALL,
    **changes: Any,
) -> tuple[Learner, Iterator[Epoch]]:
    """A training that is about to start, as a new process would make it."""
    learner = learner_of(recipe, backbone)
    training = Training.model_validate({"epochs": EPOCHS, "batch_size": 8, "milestones": [4], **changes})
    begun = progress.attach if progress else lambda state: None
    epochs = train(learner, draws_of(), training, begin=begun)
    return learner, progress.keep(epochs) if progress else epochs


def stop_after(folder: Path, epoch: int, digest: str = "same") -> None:
    """A process that dies when it has written its progress after an epoch: all but the file is lost."""
    _, epochs = begin(Progress(folder / PROGRESS, digest, seconds=0))
    list(islice(epochs, epoch + 1))


@pytest.mark.parametrize(
    ("recipe", "backbone", "changes"),
    [
        (JOINT, SMALL, {}),
        (PLAIN, SMALL, {}),
        (PLAIN, SMALL, {"momentum": 0.0}),
        (PLAIN, SMALL, ADAMW),
        (JOINT, DROPOUT, {"nesterov": True}),
    ],
    ids=["joint", "plain", "no momentum", "adamw", "dropout"],
)
@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_stopped_after_any_epoch_it_ends_the_same(
    tmp_path: Path, epoch: int, recipe: RecipeRow, backbone: BackboneRow, changes: dict[str, Any]
) -> None:
    undisturbed, epochs = begin(None, recipe, backbone, **changes)
    told = list(epochs)
    _, stopped = begin(Progress(tmp_path / PROGRESS, "same", seconds=0), recipe, backbone, **changes)
    list(islice(stopped, epoch + 1))
    resumed, rest = begin(Progress(tmp_path / PROGRESS, "same", seconds=0), recipe, backbone, **changes)
    assert list(rest) == told[epoch:]
    assert same(state(undisturbed), state(resumed))


def test_stopped_again_and_again(tmp_path: Path) -> None:
    undisturbed, epochs = begin(None)
    list(epochs)
    for _ in range(EPOCHS - 1):
        _, stopped = begin(Progress(tmp_path / PROGRESS, "same", seconds=0))
        list(islice(stopped, 2))
    resumed, rest = begin(Progress(tmp_path / PROGRESS, "same", seconds=0))
    assert [epoch.number for epoch in rest] == [EPOCHS]
    assert same(state(undisturbed), state(resumed))


def test_a_short_training_writes_nothing(tmp_path: Path) -> None:
    _, epochs = begin(Progress(tmp_path / PROGRESS, "same", seconds=3600))
    list(epochs)
    assert not list(tmp_path.iterdir())


def test_seconds_of_all_processes_are_added_up(tmp_path: Path) -> None:
    stop_after(tmp_path, 2)
    progress = Progress(tmp_path / PROGRESS, "same", seconds=0)
    _, epochs = begin(progress)
    next(epochs)
    assert progress.earlier_seconds > 0


def test_another_model_of_device_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the log when the training continues there, and for as long as the file lives."""

    def devices(device: str) -> tuple[list[str], str]:
        progress = Progress(tmp_path / PROGRESS, "same", seconds=0, device=device)
        _, epochs = begin(progress)
        list(islice(epochs, 2))
        return progress.devices, capsys.readouterr().err

    mixed = "continues on {} what was trained on {}: bits may differ from a run on one model\n"
    assert devices("card A") == (["card A"], "")
    found, told = devices("card A")
    assert found == ["card A"]
    assert "continues on" not in told
    found, told = devices("card B")
    assert found == ["card A", "card B"]
    assert told.endswith(mixed.format("card B", "card A"))
    found, told = devices("card A")
    assert found == ["card A", "card B"]
    assert told.endswith(mixed.format("card A", "card A; card B"))


class TestDiscarding:
    """A file that is not wholly this training's is told of and changes nothing."""

    def discarded(self, folder: Path, capsys: pytest.CaptureFixture[str], reason: str) -> None:
        progress = Progress(folder / PROGRESS, "same", seconds=3600)
        _, epochs = begin(progress)
        assert next(epochs).number == 1
        told = capsys.readouterr().err
        assert reason in told
        assert "the round is trained from its first epoch" in told
        assert len(told.splitlines()) == 1
        assert not (folder / PROGRESS).exists()

    def test_of_another_training(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        stop_after(tmp_path, 2, "other")
        self.discarded(tmp_path, capsys, "is of other settings, inputs or code")

    @pytest.mark.parametrize("length", [0, 7, 300, -1])
    def test_cut_off(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], length: int) -> None:
        stop_after(tmp_path, 2)
        whole = (tmp_path / PROGRESS).read_bytes()
        (tmp_path / PROGRESS).write_bytes(whole[:length])
        self.discarded(tmp_path, capsys, "not a whole safetensors file")

    @pytest.mark.parametrize(
        ("before", "after", "reason"),
        [
            (b"lplgrad progress 1", b"lplgrad progress 0", "not of the format 'lplgrad progress 1'"),
            (b'epoch\\": 2', b'epoch\\": 9', "does not fit the training"),
            (b'epoch\\": 2', b'epoch\\": 0', "does not fit the training"),
            (b'epoch\\": 2', b'epoch\\":""', "not a whole safetensors file"),
            (b'"model/fc.bias"', b'"model/fc.bits"', "does not fit the training"),
            (b"devices", b"device_", "does not fit the training"),
            (b"augmenting", b"augmentinG", "has no positions of its random streams"),
            (b"PCG64", b"PCG65", "has no positions of its random streams"),
        ],
    )
    def test_damaged(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], before: bytes, after: bytes, reason: str
    ) -> None:
        stop_after(tmp_path, 2)
        whole = (tmp_path / PROGRESS).read_bytes()
        assert before in whole
        (tmp_path / PROGRESS).write_bytes(whole.replace(before, after))
        self.discarded(tmp_path, capsys, reason)

    def test_streams_that_are_missing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A recipe names its streams. One that is missing would start anew, unnoticed."""
        stop_after(tmp_path, 2)
        tensors, header = read_tensors(tmp_path / PROGRESS, resume.FORMAT)
        del header["streams"]["batches"]
        write_tensors(tmp_path / PROGRESS, tensors, {**header, "format": resume.FORMAT})
        self.discarded(tmp_path, capsys, "has no positions of its random streams")

    def test_of_other_networks(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _, epochs = begin(Progress(tmp_path / PROGRESS, "same", seconds=0), PLAIN)
        list(islice(epochs, 2))
        self.discarded(tmp_path, capsys, "does not fit the training")

    def test_a_pickle_is_not_opened(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        torch.save({"epoch": 2}, tmp_path / PROGRESS)
        self.discarded(tmp_path, capsys, "not a whole safetensors file")

    def test_a_refused_file_leaves_the_state_as_it_was(self, tmp_path: Path) -> None:
        stop_after(tmp_path, 2)
        whole = (tmp_path / PROGRESS).read_bytes()
        (tmp_path / PROGRESS).write_bytes(whole.replace(b"augmenting", b"augmentinG"))
        learner, draws = learner_of(JOINT), draws_of()
        states: list[State] = []
        list(train(learner, draws, Training(epochs=EPOCHS, batch_size=8, milestones=[4]), begin=states.append))
        before = state(learner)
        positions = {name: one.bit_generator.state for name, one in draws.streams.items()}
        with pytest.raises(UserError):
            restore(states[0], tmp_path / PROGRESS, "same")
        assert same(before, state(learner))
        assert states[0].epoch == EPOCHS
        assert {name: one.bit_generator.state for name, one in draws.streams.items()} == positions


def test_the_digest_is_of_all_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "labeled.csv"
    file.write_text("index,round,label\n1,1,0\n")
    digest, roots = resume.digest_of, ["rounds.train.run"]
    before = digest([{"epochs": 2}, 1], [file], roots)
    assert digest([{"epochs": 2}, 1], [file], roots) == before
    assert digest([{"epochs": 3}, 1], [file], roots) != before
    assert digest([{"epochs": 2}, 2], [file], roots) != before
    file.write_text("index,round,label\n2,1,0\n")
    assert digest([{"epochs": 2}, 1], [file], roots) != before
    file.write_text("index,round,label\n1,1,0\n")
    for target, value in [("lplgrad.rounds.resume.code_digest", lambda *modules: "edited"), ("torch.__version__", "0")]:
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            assert digest([{"epochs": 2}, 1], [file], roots) != before


def test_a_disk_that_is_full_ends_no_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    _, epochs = begin(Progress(tmp_path / PROGRESS, "same", seconds=0))
    assert len(list(epochs)) == EPOCHS
    assert f"{tmp_path / PROGRESS}: No space left on device; the progress was not saved" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_process_that_is_waited_for_writes_and_ends(tmp_path: Path) -> None:
    _, epochs = begin(Progress(tmp_path / PROGRESS, "same", seconds=3600, wanted=lambda: True))
    next(epochs)
    with pytest.raises(UserError, match="another process waits for this round and continues it"):
        next(epochs)
    _, rest = begin(Progress(tmp_path / PROGRESS, "same", seconds=3600))
    assert next(rest).number == 2


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_sigterm_waits_for_the_epoch_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], epoch: int
) -> None:
    _, epochs = begin(Progress(tmp_path / PROGRESS, "same", seconds=3600))
    for _ in range(epoch):
        next(epochs)
    for _ in range(2):  # within a second
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted, match="ended by SIGTERM"):
        next(epochs)
    assert "SIGTERM: ending after this epoch; once more to end at once" in capsys.readouterr().err
    _, rest = begin(Progress(tmp_path / PROGRESS, "same", seconds=3600))
    assert [record.number for record in rest] == list(range(epoch + 1, EPOCHS + 1))


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with deferred("later") as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(received) == 1
        later = time.monotonic() + 2
        monkeypatch.setattr(time, "monotonic", lambda: later)
        with pytest.raises(Interrupted, match="ended by SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)


MANY = 150


@pytest.fixture
def command(data: DatasetArrays, tmp_path: Path, lplgrad: Call) -> Callable[[str, str], list[str]]:
    """The command line of a training of the round in a folder."""
    labeled = tmp_path / "labeled.csv"
    assert lplgrad("start", "--data", data.folder, "--query-size", 20, "--seed", 1, "--output", labeled)[0] == 0

    def of(folder: str, seconds: str) -> list[str]:
        return [
            sys.executable, "-m", "lplgrad", "train", "--data", str(data.folder), "--labeled", str(labeled),
            "--round", "1", "--seed", "1", "--settings", conftest.JOINT.replace("epochs: 2", f"epochs: {MANY}"),
            "--progress-seconds", seconds, "--output", str(tmp_path / folder),
        ]  # fmt: skip

    return of


def until_epoch(arguments: list[str], epoch: int, ending: signal.Signals) -> tuple[int, str]:
    """Start a process, send it a signal when it tells of an epoch, and return its status and what it told."""
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if line.startswith(f"epoch {epoch}/"):
            process.send_signal(ending)
            break
    told.append(process.communicate(timeout=120)[1])
    return process.returncode, "".join(told)


@pytest.mark.slow
def test_killed_processes_and_an_undisturbed_one_write_the_same_bytes(
    command: Callable[[str, str], list[str]], tmp_path: Path
) -> None:
    subprocess.run(command("undisturbed", "0"), check=True, capture_output=True)
    assert until_epoch(command("killed", "0"), 40, signal.SIGKILL)[0] == -signal.SIGKILL
    assert (tmp_path / "killed" / PROGRESS).exists()
    status, told = until_epoch(command("killed", "0"), 80, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert f"{PROGRESS}: continuing after epoch " in told
    status, told = until_epoch(command("killed", "3600"), 110, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert told.splitlines()[-1] == "lplgrad train: error: ended by SIGTERM"
    done = subprocess.run(command("killed", "3600"), check=True, capture_output=True, text=True)
    resumed = int(done.stderr.partition("continuing after epoch ")[2].split()[0])
    assert resumed >= 110, "SIGTERM lost nothing"
    for name in ("checkpoint.safetensors", "test_logits.npy", "metrics.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes()
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    results = {"checkpoint.safetensors", "test_logits.npy", "metrics.json", "timing.json", "settings.json"}
    assert left == {*results, PROGRESS}


@pytest.mark.slow
def test_the_successor_of_an_orphan_goes_on_from_where_it_was(
    command: Callable[[str, str], list[str]], tmp_path: Path
) -> None:
    orphan = subprocess.Popen(command("round", "3600"), stderr=subprocess.PIPE, text=True)
    assert orphan.stderr is not None
    while not orphan.stderr.readline().startswith("epoch 5/"):
        assert orphan.poll() is None
    # The orphan is halted meanwhile. Otherwise it may finish before a slow machine has started its successor.
    orphan.send_signal(signal.SIGSTOP)
    successor = subprocess.Popen(command("round", "3600"), stderr=subprocess.PIPE, text=True)
    assert successor.stderr is not None
    first_line = successor.stderr.readline()
    orphan.send_signal(signal.SIGCONT)
    orphan_log, successor_log = (process.communicate(timeout=120)[1] for process in (orphan, successor))
    assert f"waiting for process {orphan.pid}" in first_line
    assert "another process waits for this round" in orphan_log.splitlines()[-1]
    assert (orphan.returncode, successor.returncode) == (1, 0)
    assert "continuing after epoch" in successor_log
    assert (tmp_path / "round" / "metrics.json").exists()


def test_what_is_done_is_not_done_again_until_the_next_job_has_it(
    data: DatasetArrays, tmp_path: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake deletes the results of a job whose end it did not live to see, and runs it again."""
    labeled = tmp_path / "labeled.csv"
    assert lplgrad("start", "--data", data.folder, "--query-size", 6, "--seed", 1, "--output", labeled)[0] == 0
    common = ["train", "--data", data.folder, "--labeled", labeled, "--round", 1, "--output", tmp_path / "round"]
    assert lplgrad(*common, "--seed", 1, "--settings", TRAIN, "--progress-seconds", 0)[0] == 0
    assert (tmp_path / "round" / PROGRESS).exists()
    before = (tmp_path / "round" / "checkpoint.safetensors").read_bytes()
    first = json.loads((tmp_path / "round" / "timing.json").read_text())["device"]
    monkeypatch.setattr(
        "lplgrad.rounds.training.describe", lambda device: {**timing.describe(device), "device": "another"}
    )
    status, told = lplgrad(*common, "--seed", 1, "--settings", TRAIN)
    assert status == 0
    assert "continuing after epoch 2 of 2" in told
    assert "epoch 2/2" not in told
    assert f"continues on another what was trained on {first}: bits may differ" in told
    assert json.loads((tmp_path / "round" / "timing.json").read_text())["device"] == f"{first}; another"
    assert (tmp_path / "round" / "checkpoint.safetensors").read_bytes() == before
    assert (tmp_path / "round" / PROGRESS).exists()
    query = ["query", *common[1:], "--checkpoint", tmp_path / "round/checkpoint.safetensors", "--seed", 1]
    assert lplgrad(*query, "--settings", "{acquisition: entropy, query_size: 6, candidates: 30}")[0] == 0
    assert not (tmp_path / "round" / PROGRESS).exists()
