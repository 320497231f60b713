"""A study through SLURM itself, on a cluster of this machine with four GPUs that are only names (tests/cluster/)."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import HOME, copy_project, overlay, results, snakemake

CLUSTER = HOME / "tests" / "cluster"
TESTING = ("--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "4")


def missing() -> str | None:
    """Why these tests cannot run here."""
    if os.geteuid() != 0:
        return "the test cluster needs root"
    for program in ("slurmctld", "slurmd", "sbatch", "munged", "setpriv"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            return f"{program} is not installed (Debian's slurm-wlm, munge and util-linux)"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "snakemake-executor-plugin-slurm is not installed"
    configuration = Path("/etc/slurm/slurm.conf")
    if configuration.exists() and "tests/cluster/up.sh" not in configuration.read_text():
        return "this machine is part of a cluster"
    return None


REASON = missing()
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A cluster, as long as the tests run: a new one, since jobs of one that killed tests left may hold its cards."""
    with Path(tempfile.gettempdir(), "lplgrad-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of these tests on this machine comes to its end first
        subprocess.run([CLUSTER / "down.sh"], check=True, capture_output=True)
        subprocess.run([CLUSTER / "up.sh"], check=True, capture_output=True)
        yield
        subprocess.run([CLUSTER / "down.sh"], check=True, capture_output=True)


def known_jobs() -> list[dict[str, str]]:
    """What SLURM tells of its jobs, those that ended lately included."""
    said = subprocess.run(["scontrol", "-d", "-o", "show", "jobs"], capture_output=True, text=True, check=True).stdout
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in said.splitlines() if line.startswith("JobId=")]


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, known_jobs()
        time.sleep(0.2)


class Run:
    """A study on its way through SLURM, in a project of its own."""

    def __init__(self, folder: Path, *arguments: str, profile: str = "slurm", **changes: object) -> None:
        self.project = copy_project(folder)
        self.log = folder / "snakemake.log"
        # It ends with the tests: one left behind would submit its jobs again, to the cluster of the next tests.
        command = [
            "setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "snakemake", "--workflow-profile",
            f"profiles/{profile}", *TESTING, *arguments,
            "--configfile", overlay(self.project, **changes),
        ]  # fmt: skip
        with self.log.open("w") as told:
            self.process = subprocess.Popen(command, cwd=folder, stdout=told, stderr=told, start_new_session=True)

    def jobs(self) -> list[dict[str, str]]:
        return [job for job in known_jobs() if job.get("WorkDir") == str(self.project)]

    def running_job(self) -> str:
        """The number of the job of the long training, once that has got somewhere."""
        log = self.project / TRAINING_LOG
        until(lambda: log.exists() and "epoch 50/" in log.read_text())
        return next(job["JobId"] for job in self.jobs() if job["JobState"] == "RUNNING")

    def finish(self, status: int = 0) -> str:
        """Wait for its end and return what Snakemake said."""
        assert self.process.wait(timeout=400) == status, self.log.read_text()
        return self.log.read_text()


TRAINING = "results/tiny/small/digits/start/seed1/plain/metrics.json"
TRAINING_LOG = "logs/tiny/small/digits/start/seed1/plain/train.log"
# A training of a while, whose progress is written on request only.
LONG: dict[str, Any] = {
    "datasets__digits__training__epochs": 2500, "datasets__digits__training__batch_size": 10,
    "compute__progress_seconds": 3600, "run__strategies": ["entropy"],
}  # fmt: skip
SHORT: dict[str, Any] = {
    "run__strategies": ["entropy", "random"],
    "datasets__digits__budgets__small": {"query_size": 10, "candidates": 60, "labels": 20}, "model_figures": {},
}  # fmt: skip
TABLES = ("results/tiny/measurements.csv", "results/tiny/timings.csv", "results/tiny/tables/accuracy.csv")


@pytest.fixture(scope="module")
def seen(cluster: None) -> Iterator[list[list[str]]]:
    """The cards that jobs have, from moment to moment."""
    moments: list[list[str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.5):
            jobs = [job for job in known_jobs() if job["JobState"] == "RUNNING"]
            moments.append([card for job in jobs for card in re.findall(r"gpu:1\(IDX:(\d)\)", job.get("GRES", ""))])

    watcher = threading.Thread(target=look)
    watcher.start()
    yield moments
    done.set()
    watcher.join()


@pytest.fixture(scope="module")
def runs(cluster: None, seen: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """All at the same time: most of it is waiting for SLURM."""
    folder = tmp_path_factory.mktemp("slurm")
    started = {
        "study": Run(folder / "study", *TABLES, **SHORT),
        "cancelled": Run(folder / "cancelled", TRAINING, **LONG),
        "preempted": Run(folder / "preempted", TRAINING, **LONG),
        "failing": Run(folder / "failing", "--retries", "1", TRAINING, datasets__digits__training__learning_rate=1e30),
        "trial": Run(
            folder / "trial", "results/tiny/small/digits/entropy/seed1/round3/metrics.json", profile="slurm-trials",
            run__strategies=["entropy"], run__seeds=[1],
        ),
    }  # fmt: skip
    try:
        # As soon as both train: one is cancelled, then whatever has a card has to give way.
        numbers = {name: started[name].running_job() for name in ("cancelled", "preempted")}
        subprocess.run(["scancel", numbers["cancelled"]], check=True)
        urgent = ["sbatch", "--partition=urgent", "--gpus=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 1"]
        subprocess.run(urgent, check=True, capture_output=True)
        yield started
    finally:
        for run in started.values():
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()


def test_a_cancelled_job_is_submitted_again_and_trains_on(runs: dict[str, Run]) -> None:
    run = runs["cancelled"]
    said = run.finish()
    assert "Trying to restart job" in said
    assert "continuing after epoch" in (run.project / TRAINING_LOG).read_text()
    assert sorted(job["JobState"] for job in run.jobs()) == ["CANCELLED", "COMPLETED"]


def test_a_preempted_job_is_requeued_and_trains_on(runs: dict[str, Run]) -> None:
    run = runs["preempted"]
    run.finish()
    (job,) = run.jobs()
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert "continuing after epoch" in (run.project / TRAINING_LOG).read_text()


def test_a_job_that_always_fails_is_tried_once_more_and_its_log_is_named(runs: dict[str, Run]) -> None:
    run = runs["failing"]
    said = run.finish(status=1)
    assert [job["JobState"] for job in run.jobs()] == ["FAILED", "FAILED"]
    assert TRAINING_LOG in said
    assert "lplgrad train: error: the loss is" in said
    assert "Traceback" not in said


def test_a_trial_of_rounds_can_be_one_job(runs: dict[str, Run]) -> None:
    run = runs["trial"]
    run.finish()
    assert len(run.jobs()) == 2, "the first training, and all that follows"


def test_a_study_gives_the_tables_of_a_local_run_with_a_card_for_every_job(
    runs: dict[str, Run], tmp_path: Path
) -> None:
    run = runs["study"]
    run.finish()
    local = copy_project(tmp_path)
    snakemake(local, *TABLES, config=overlay(local, **SHORT))
    assert results(local) == results(run.project)
    jobs = run.jobs()
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    # Two first trainings, two queries of entropy, four trainings; a random query needs no card.
    assert len([job for job in jobs if "gpu" in job.get("TresPerJob", "")]) == 8


def test_no_two_jobs_had_the_same_card(runs: dict[str, Run], seen: list[list[str]]) -> None:
    """At any moment that was looked at, over all runs together."""
    assert all(len(set(cards)) == len(cards) <= 4 for cards in seen)
    assert max(len(cards) for cards in seen) > 1
