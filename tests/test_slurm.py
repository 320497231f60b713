"""A study through SLURM itself, on a cluster of this machine with four GPUs that are only names (tests/cluster/)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.test_workflow import HOME, copy_project, overlay, results, snakemake, start_snakemake

CLUSTER = HOME / "tests" / "cluster"
PROFILE = (
    "--workflow-profile", "profiles/slurm", "--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "4",
    "--slurm-keep-successful-logs",
)  # fmt: skip


def missing() -> str | None:
    """Why these tests cannot run here."""
    if os.geteuid() != 0:
        return "the test cluster needs root"
    for program in ("slurmctld", "slurmd", "sbatch", "munged"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            return f"{program} is not installed (Debian's slurm-wlm and munge)"
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
    """A cluster, as long as the tests run."""
    subprocess.run([CLUSTER / "up.sh"], check=True, capture_output=True)
    yield
    subprocess.run([CLUSTER / "down.sh"], check=True, capture_output=True)


def known_jobs() -> list[dict[str, str]]:
    """What SLURM tells of its jobs, those that ended lately included."""
    said = subprocess.run(["scontrol", "-d", "-o", "show", "jobs"], capture_output=True, text=True, check=True).stdout
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in said.splitlines() if line.startswith("JobId=")]


def jobs_of(project: Path) -> list[dict[str, str]]:
    return [job for job in known_jobs() if job.get("WorkDir") == str(project)]


def until(condition: Callable[[], object], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, known_jobs()
        time.sleep(0.2)


LONG = "results/tiny/small/digits/start/seed1/plain/metrics.json"
LONG_LOG = "logs/tiny/small/digits/start/seed1/plain/train.log"


def long_training(project: Path) -> str:
    """A configuration whose first training takes a while; its progress is never written but on request."""
    return overlay(
        project, datasets__digits__training__epochs=2500, datasets__digits__training__batch_size=10,
        compute__progress_seconds=3600, run__strategies=["entropy"],
    )  # fmt: skip


def running_long_training(project: Path) -> str:
    """The number of the job that trains, once it has got somewhere."""
    log = project / LONG_LOG
    until(lambda: log.exists() and "epoch 50/" in log.read_text())
    (number,) = [job["JobId"] for job in jobs_of(project) if job["JobState"] == "RUNNING"]
    return number


def test_a_study_gives_the_tables_of_a_local_run_and_every_job_has_a_card_of_its_own(
    cluster: None, tmp_path: Path
) -> None:
    local, remote = copy_project(tmp_path / "local"), copy_project(tmp_path / "remote")
    budget = {"query_size": 10, "candidates": 60, "labels": 20}
    changes = {"run__strategies": ["entropy", "random"], "datasets__digits__budgets__small": budget}
    snakemake(local, config=overlay(local, **changes))
    process = start_snakemake(remote, *PROFILE, config=overlay(remote, **changes))
    most = 0
    while process.poll() is None:
        cards = [card for job in jobs_of(remote) for card in re.findall(r"gpu:1\(IDX:(\d)\)", job.get("GRES", ""))]
        assert len(set(cards)) == len(cards), "a card has two jobs"
        most = max(most, len(cards))
        time.sleep(0.3)
    assert process.returncode == 0, process.communicate()[0]
    assert 1 < most <= 4
    assert results(local) == results(remote)

    jobs = jobs_of(remote)
    assert all(job["JobState"] == "COMPLETED" for job in jobs)
    # Two first trainings, two queries of entropy, four trainings; a random query needs no card.
    assert len([job for job in jobs if "gpu" in job.get("TresPerJob", "")]) == 8
    visible = {
        re.findall(r"CUDA_VISIBLE_DEVICES=(\S+):", log.read_text())[0] for log in remote.glob("logs/**/train.log")
    }
    assert visible <= set("0123")
    assert len(visible) > 1


def test_a_cancelled_job_is_submitted_again_and_trains_on(cluster: None, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    process = start_snakemake(project, *PROFILE, LONG, config=long_training(project))
    number = running_long_training(project)
    subprocess.run(["scancel", number], check=True)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "Trying to restart job" in said
    assert "going on after epoch" in (project / LONG_LOG).read_text()
    assert sorted(job["JobState"] for job in jobs_of(project))[:2] == ["CANCELLED", "COMPLETED"]


def test_a_preempted_job_is_requeued_and_trains_on(cluster: None, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    process = start_snakemake(project, *PROFILE, LONG, config=long_training(project))
    number = running_long_training(project)
    urgent = ["sbatch", "--partition=urgent", "--gpus=4", "--mem=100", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, capture_output=True)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    (job,) = [job for job in jobs_of(project) if job["JobId"] == number]
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert "going on after epoch" in (project / LONG_LOG).read_text()


def test_a_job_that_always_fails_is_tried_once_more_and_its_log_is_named(cluster: None, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    config = overlay(project, datasets__digits__training__learning_rate=1e30)
    said = snakemake(project, *PROFILE, "--retries", "1", LONG, config=config, status=1)
    assert [job["JobState"] for job in jobs_of(project)] == ["FAILED", "FAILED"]
    assert LONG_LOG in said
    assert "lplgrad train: error: the loss is" in said
    assert "Traceback" not in said


def test_a_chain_of_rounds_can_be_one_job(cluster: None, tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    config = overlay(project, run__strategies=["entropy"], run__seeds=[1])
    profile = ["profiles/slurm-chains" if word == "profiles/slurm" else word for word in PROFILE]
    target = "results/tiny/small/digits/entropy/seed1/round3/metrics.json"
    snakemake(project, *profile, target, config=config)
    assert len(jobs_of(project)) == 2, "the first training, and all that follows"
