"""Leases of GPUs, with cards that are only names, and locks of folders: never two holders, and no lock of the dead."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lplgrad.machine import leases, locks
from lplgrad.machine.errors import UserError
from lplgrad.machine.leases import visible_devices

CARDS = ["GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77", "GPU-8f1c0b52-1111-2222-3333-444455556666"]
WHOLE = "".join(f"GPU {index}: NVIDIA H200 (UUID: {uuid})\n" for index, uuid in enumerate(CARDS))
PARTS = [f"MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3{index}" for index in range(2)]
DIVIDED = (
    f"GPU 0: NVIDIA A100-SXM4-40GB (UUID: {CARDS[0]})\n"
    + "".join(f"  MIG 3g.20gb     Device  {index}: (UUID: {uuid})\n" for index, uuid in enumerate(PARTS))
    + f"GPU 1: NVIDIA A100-SXM4-40GB (UUID: {CARDS[1]})\n"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine to put an nvidia-smi on; CUDA_VISIBLE_DEVICES and SLURM unset."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return programs


def install_nvidia_smi(programs: Path, told: str, status: int = 0) -> None:
    program = programs / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] || exit 9\ncat <<'END'\n{told}END\nexit {status}\n")
    program.chmod(0o755)


class TestVisibleDevices:
    @pytest.mark.parametrize(
        ("named", "expected"),
        [
            (None, CARDS),
            ("", []),
            ("0", CARDS[:1]),
            ("1,0", CARDS[::-1]),
            (" 1 , 0 ", CARDS[::-1]),
            ("0,0", CARDS[:1]),
            ("0,7,1", CARDS[:1]),  # CUDA sees nothing after what does not exist
            ("-1", []),
            ("0,-1,1", CARDS[:1]),
            ("NoDevFiles", []),
            (CARDS[1], CARDS[1:]),
            ("GPU-8f", CARDS[1:]),  # cut short
            ("GPU-", []),  # not clear
            (f"{CARDS[1]},0", CARDS[::-1]),
            ("GPU-ffffffff", []),
            ("../../etc/passwd", []),
        ],
    )
    def test_of_whole_cards(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, expected: list[str]
    ) -> None:
        install_nvidia_smi(machine, WHOLE)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_devices() == expected

    @pytest.mark.parametrize(
        ("named", "expected"),
        [
            (None, [*PARTS, CARDS[1]]),
            ("0", PARTS),
            ("1", CARDS[1:]),
            (PARTS[1], PARTS[1:]),
            (f"{PARTS[1]},{PARTS[0]}", PARTS[::-1]),
        ],
    )
    def test_of_a_card_in_parts(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, expected: list[str]
    ) -> None:
        install_nvidia_smi(machine, DIVIDED)
        if named is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_devices() == expected

    def test_without_nvidia_smi_names_stand_for_themselves(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for named, expected in [("0,2", ["0", "2"]), ("MIG-GPU-5d5ba0d6/1/0", ["MIG-GPU-5d5ba0d6/1/0"]), ("-1", [])]:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
            assert visible_devices() == expected

    def test_of_a_broken_nvidia_smi_the_drivers_files_are_counted(
        self, machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One lost card is enough for it to fail."""
        install_nvidia_smi(machine, "NVIDIA-SMI has failed because it couldn't communicate with the driver.\n", 9)
        monkeypatch.setattr(leases, "DEVICES", tmp_path)
        assert visible_devices() == []
        for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
            (tmp_path / name).touch()
        assert visible_devices() == ["0", "1"]
        for named, expected in ((CARDS[1], CARDS[1:]), ("1", ["1"])):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
            assert visible_devices() == expected


# A job: takes a lease, writes down when it had which card, and ends or waits to be killed.
JOB = """
import os, sys, time
from pathlib import Path
from lplgrad.machine.leases import lease_gpu
from lplgrad.machine.locks import POLL_SECONDS
folder, diary, places, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
card = lease_gpu(places, folder)
assert "torch" not in sys.modules and os.environ["CUDA_VISIBLE_DEVICES"] == card
began = time.monotonic()
print(card, flush=True)
time.sleep(seconds)
with open(diary, "a") as file:
    file.write(f"{card} {began} {time.monotonic()}\\n")
"""


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are gone at the end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def job(folder: Path, cards: str, places: int = 1, seconds: float = 0.1, **environment: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(folder), str(folder / "diary"), str(places), str(seconds)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": cards, "PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def most_at_once(diary: Path) -> dict[str, int]:
    """How many jobs had a card at the same time, at most, by card."""
    changes: dict[str, list[tuple[float, int]]] = {}
    for line in diary.read_text().splitlines():
        card, began, ended = line.split()
        changes.setdefault(card, []).extend([(float(began), 1), (float(ended), -1)])
    found = {}
    for card, moments in changes.items():
        count = highest = 0
        for _, change in sorted(moments):
            count += change
            highest = max(highest, count)
        found[card] = highest
    return found


def end(process: subprocess.Popen[str]) -> str:
    _, told = process.communicate(timeout=60)
    assert process.returncode == 0, told
    return told


def failing(number: int) -> Callable[[int, int], None]:
    """A flock that fails."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


class TestLeases:
    def test_twelve_jobs_on_four_cards_never_meet(self, tmp_path: Path, jobs: list[subprocess.Popen[str]]) -> None:
        """And two pools that share two cards, as two Snakemakes side by side: cards 0 to 3, and cards 2 to 5."""
        pools = ["0,1,2,3", "2,3,4,5"]
        jobs += [job(tmp_path / "cards", pools[number % 2]) for number in range(12)]
        told = [end(process) for process in jobs]
        found = most_at_once(tmp_path / "cards" / "diary")
        assert set(found.values()) == {1}
        assert len((tmp_path / "cards" / "diary").read_text().splitlines()) == 12
        assert all("is leased" in lines for lines in told)

    def test_places_on_a_card(self, tmp_path: Path, jobs: list[subprocess.Popen[str]]) -> None:
        """Two jobs a card: both cards have one before one has two, and none has three."""
        jobs += [job(tmp_path / "cards", "0,1", places=2, seconds=60) for _ in range(2)]
        assert sorted(process.stdout.readline().strip() for process in jobs if process.stdout) == ["0", "1"]
        more = [job(tmp_path / "cards", "0,1", places=2, seconds=0.1) for _ in range(4)]
        jobs += more
        for process in more:
            end(process)
        found = most_at_once(tmp_path / "cards" / "diary")
        assert set(found.values()) == {1}, "each card's other place is taken by one of the first two"

    def test_a_card_is_one_jobs_alone_or_shared_whatever_other_studies_say(
        self, tmp_path: Path, jobs: list[subprocess.Popen[str]]
    ) -> None:
        """Two jobs share a card; one that wants it for itself waits for both, and a third that would share, for it."""
        sharing = [job(tmp_path / "cards", "0", places=2, seconds=60) for _ in range(2)]
        jobs += sharing
        assert [process.stdout.readline().strip() for process in jobs if process.stdout] == ["0", "0"]
        alone = job(tmp_path / "cards", "0", seconds=60)
        jobs.append(alone)
        assert alone.stderr is not None
        assert alone.stdout is not None
        line = alone.stderr.readline()
        assert "waiting for a GPU" in line
        assert all(f"process {process.pid} on" in line for process in sharing), "not only the last one that came"
        for process in sharing:
            assert alone.poll() is None
            process.kill()
            process.wait()
        assert alone.stdout.readline() == "0\n"
        third = job(tmp_path / "cards", "0", places=2)
        jobs.append(third)
        assert third.stderr is not None
        assert "waiting for a GPU, 2 job(s) on each" in third.stderr.readline()
        alone.kill()
        end(third)

    def test_a_killed_holder_frees_its_card_at_once(self, tmp_path: Path, jobs: list[subprocess.Popen[str]]) -> None:
        first = job(tmp_path / "cards", "0", seconds=60)
        jobs.append(first)
        assert first.stdout is not None
        assert first.stdout.readline() == "0\n"
        second = job(tmp_path / "cards", "0")
        jobs.append(second)
        assert second.stderr is not None
        line = second.stderr.readline()
        assert line.startswith("waiting for a GPU, 1 job(s) on each: all are leased: 0 by process ")
        assert str(first.pid) in line
        assert second.poll() is None
        first.send_signal(signal.SIGKILL)
        first.wait()
        end(second)

    def test_one_card_under_slurm_was_assigned_already(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Path
    ) -> None:
        monkeypatch.setattr(leases, "_leased", {})
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert leases.lease_gpu(1, tmp_path) is None
        assert not list(tmp_path.glob("*.lock"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        assert leases.lease_gpu(1, tmp_path) == "2"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
        assert leases.lease_gpu(1, tmp_path) == "2", "a process has one card"
        os.close(*leases._leased["2"])

    @pytest.mark.parametrize("number", [524, errno.ENOLCK])
    def test_without_locks_one_card_is_used_and_several_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
    ) -> None:
        monkeypatch.setattr(leases, "_leased", {})
        monkeypatch.setattr("fcntl.flock", failing(number))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert leases.lease_gpu(1, tmp_path) is None
        assert "its file system has no locks; make sure that no other run uses GPU 3" in capsys.readouterr().err
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
        with pytest.raises(
            UserError, match="has no locks, so no GPU can be leased; name one GPU in CUDA_VISIBLE_DEVICES"
        ):
            leases.lease_gpu(2, tmp_path)

    def test_no_card_no_lease(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leases, "_leased", {})
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert leases.lease_gpu(1, tmp_path) is None


# Works alone in a folder until it is asked to end, or for some seconds.
HOLDER = """
import sys, time
from pathlib import Path
from lplgrad.machine.locks import alone
with alone(Path(sys.argv[1]), "train") as wanted:
    print("in", flush=True)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end and not wanted():
        time.sleep(0.02)
    print("asked" if wanted() else "done", flush=True)
"""


def hold(folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(seconds)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


class TestAlone:
    def test_an_orphan_is_asked_to_end_and_its_successor_follows(
        self, tmp_path: Path, jobs: list[subprocess.Popen[str]]
    ) -> None:
        orphan = hold(tmp_path / "round", 60)
        jobs.append(orphan)
        assert orphan.stdout is not None
        assert orphan.stdout.readline() == "in\n"
        assert locks.is_held(tmp_path / "round" / ".train.lock")
        successor = hold(tmp_path / "round", 0)
        jobs.append(successor)
        said, told = successor.communicate(timeout=60)
        assert orphan.communicate(timeout=60)[0] == "asked\n"
        assert said == "in\ndone\n"
        assert f"waiting for process {orphan.pid}" in told
        assert not list(tmp_path.rglob(".*")), "no lock is left"

    def test_many_at_once(self, tmp_path: Path, jobs: list[subprocess.Popen[str]]) -> None:
        """Locks are removed after use, and yet guard: every holder finds the others' mark gone."""
        script = (
            "import sys, time; from pathlib import Path; from lplgrad.machine.locks import alone\n"
            "for _ in range(30):\n"
            "    with alone(Path(sys.argv[1]), 'query'):\n"
            "        mark = Path(sys.argv[1], 'mark'); mark.touch(exist_ok=False); time.sleep(0.001); mark.unlink()\n"
        )
        jobs += [
            subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        for process in jobs:
            end(process)

    def test_a_lock_left_by_a_dead_process_is_free(self, tmp_path: Path, jobs: list[subprocess.Popen[str]]) -> None:
        process = hold(tmp_path, 60)
        jobs.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        assert (tmp_path / ".train.lock").exists()
        began = time.monotonic()
        with locks.alone(tmp_path, "train") as wanted:
            assert not wanted()
        assert time.monotonic() - began < 30
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, 524, errno.ENOLCK, errno.EINVAL])
    def test_a_file_system_without_locks_is_told_and_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
    ) -> None:
        monkeypatch.setattr("fcntl.flock", failing(number))
        with locks.alone(tmp_path, "train") as wanted:
            assert not wanted()
        assert "its file system has no locks" in capsys.readouterr().err
        assert not list(tmp_path.iterdir()), "no lock is left"

    def test_a_file_system_that_fails_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("fcntl.flock", failing(errno.EIO))
        with pytest.raises(OSError, match=r"train\.lock"), locks.alone(tmp_path, "train"):
            pass
