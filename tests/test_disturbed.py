"""What disturbs a study while it runs: each ends with a clear message and nothing left over, and a rerun heals it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos import processes
from tests.runs import copy_project, overlay, snakemake, start_snakemake

pytestmark = pytest.mark.slow
ROOT = "results/tiny/small/digits"
LOG = "logs/tiny/small/digits/start/seed1/plain/train.log"
TARGET = f"{ROOT}/start/seed1/plain/metrics.json"


def long_training(folder: Path) -> str:
    return overlay(
        folder, datasets__digits__training__epochs=3000, datasets__digits__training__batch_size=10,
        compute__progress_seconds=3600, compute__device="cpu",
    )  # fmt: skip


def wait_for_training(folder: Path) -> None:
    log = folder / LOG
    while not (log.exists() and "epoch 20/" in log.read_text()):
        time.sleep(0.1)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_jobs_end_with_their_progress_written(tmp_path: Path, ending: signal.Signals) -> None:
    """Ctrl-C reaches all processes of the terminal; SIGTERM is sent to all here, as SLURM and systemd do."""
    if signal.getsignal(ending) == signal.SIG_IGN:
        pytest.skip(f"{ending.name} is ignored here, as in a shell's background")
    folder = copy_project(tmp_path)
    config = long_training(folder)
    process = start_snakemake(folder, TARGET, config=config)
    wait_for_training(folder)
    os.killpg(process.pid, ending)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0, said
    assert not processes(folder), "no child is left"
    assert f"ended by {ending.name}" in (folder / LOG).read_text()
    assert "Traceback" not in (folder / LOG).read_text()
    assert not list(folder.rglob("*.tmp"))
    assert (folder / ROOT / "start/seed1/plain/progress.safetensors").exists()
    snakemake(folder, "--unlock", config=config)
    snakemake(folder, TARGET, config=config)
    assert "continuing after epoch" in (folder / LOG).read_text()


def test_a_second_snakemake_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    folder = copy_project(tmp_path)
    config = long_training(folder)
    first = start_snakemake(folder, TARGET, config=config)
    wait_for_training(folder)
    # The first one and its jobs are halted meanwhile. Otherwise they may finish before a slow machine has started the
    # second one.
    halted = processes(folder)
    for number in halted:
        os.kill(number, signal.SIGSTOP)
    try:
        refusal = snakemake(folder, TARGET, status=1, config=config)
        status = subprocess.run(
            [sys.executable, "-m", "lplgrad", "status", "config.yaml", config],
            cwd=folder, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "src"},
        ).stdout  # fmt: skip
    finally:
        for number in halted:
            os.kill(number, signal.SIGCONT)
        output, _ = first.communicate(timeout=300)
    assert "Directory cannot be locked" in refusal
    assert f"running: train in {ROOT}/start/seed1/plain, epoch " in status
    assert first.returncode == 0, output
