"""A study that moves: a trial runs in another folder, as on another machine, and its results come back (cluster.md)."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.runs import copy_project, jobs, overlay, rounds, snakemake

pytestmark = pytest.mark.slow
RESULTS = Path("results/tiny/small")
TABLES = ("results/tiny/measurements.csv", "results/tiny/tables/accuracy.csv")
ONLY_ROUNDS = ("--omit-from", "study")  # every table needs the rule `study`, and no round does
TOUCH = ("--touch", "--notemp", *ONLY_ROUNDS)


def configure(project: Path, **values: Any) -> str:
    """The tiny study with a single strategy, so that each seed is a trial."""
    return overlay(project, run__strategies=["entropy"], model_figures={}, **values)


def results(project: Path) -> dict[str, bytes]:
    """All results that must be the same on every run."""
    found = [path for path in (project / "results").rglob("*") if path.is_file() and "timing" not in path.name]
    return {str(path.relative_to(project)): path.read_bytes() for path in sorted(found)}


def test_a_study_moves_and_comes_back(tmp_path: Path) -> None:
    undisturbed, here, there = (tmp_path / name for name in ("undisturbed", "here", "there"))
    snakemake(copy_project(undisturbed), *TABLES, config=configure(undisturbed))

    # The trial of seed 1 runs here. The project moves without .snakemake. There, seed 2 runs up to round 2 of 3.
    snakemake(copy_project(here), *ONLY_ROUNDS, config=configure(here, run__seeds=[1]))
    study = configure(here)
    shutil.copytree(here, there, ignore=shutil.ignore_patterns(".snakemake"))
    second = "small/digits/entropy/seed2/round2"
    targets = [f"results/tiny/{second}/{name}" for name in ("scores.csv", "checkpoint.safetensors")]
    assert rounds(jobs(there, *ONLY_ROUNDS, config=study)) == {
        "start": 1, "train_start": 1, "query": 2, "train": 1, "train_kept": 1,
    }  # fmt: skip
    snakemake(there, *targets, config=study)

    # The clock there is an hour behind, so the results seem older than the data that they were computed from.
    for path in (there / RESULTS).rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)
    shutil.copytree(there / RESULTS, here / RESULTS, dirs_exist_ok=True)
    assert "train_start" in jobs(here, *TABLES, config=study), "Snakemake would run the trial again"
    snakemake(here, *TOUCH, config=study)
    assert rounds(jobs(here, *TABLES, config=study)) == {"train_kept": 1}, "only the missing round runs"
    snakemake(here, *TABLES, config=study)
    assert results(here) == results(undisturbed)

    # --touch makes Snakemake believe the files even if a setting has changed. The settings of the rounds show it.
    other = configure(here, datasets__digits__training__learning_rate=0.06)
    snakemake(here, *TOUCH, config=other)
    said = " ".join(snakemake(here, TABLES[0], status=1, config=other).split())
    assert "settings.json: training.learning_rate" in said
