"""Copies of the project, and Snakemake in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).parents[1]
TINY = "tests/tiny.yaml"
STRATEGIES, SEEDS, ROUNDS = 3, 2, 3
ROUNDS_OF_A_STUDY = {
    "prepare": 1, "start": SEEDS, "train_start": 2 * SEEDS, "query": STRATEGIES * SEEDS * (ROUNDS - 1),
    # Of entropy's first seed the models of rounds 1 and 2 are looked into, so that the latter's is kept.
    "train": STRATEGIES * SEEDS * (ROUNDS - 2) - 1, "train_kept": STRATEGIES * SEEDS + 1, "observe": 2,
}  # fmt: skip
# What is not the same on every run: times, and what is drawn from them.
TIMES = re.compile(r"timing\.json$|timings\.csv$|tables/time\.|figures/cost_|claims/")


def copy_project(target: Path) -> Path:
    """A copy of the project, as a clone would be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=HOME,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (HOME / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HOME / name, target / name)
    return target


def start_snakemake(
    project: Path, *arguments: str, config: str | None = TINY, **environment: str
) -> subprocess.Popen[str]:
    # The configuration last: --configfile takes every word that follows for another file.
    command = [sys.executable, "-m", "snakemake", *arguments, *(["--configfile", config] if config else [])]
    return subprocess.Popen(
        command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip


def snakemake(project: Path, *arguments: str, status: int = 0, config: str | None = TINY, **environment: Any) -> str:
    """Run Snakemake in a project and return what it said."""
    process = start_snakemake(project, *arguments, config=config, **environment)
    said, _ = process.communicate()
    assert process.returncode == status, said
    return said


def jobs(project: Path, *arguments: str, config: str | None = TINY, **environment: Any) -> dict[str, int]:
    """How many jobs of each rule would run."""
    said = snakemake(project, "-n", *arguments, config=config, **environment)
    table = re.search(r"Job stats:\n.*\n-+.*\n((?:.+\n)+?)total", said)
    if table is None:
        assert "Nothing to be done" in said, said
        return {}
    rows = (line.split() for line in table[1].splitlines())
    return {rule: int(count) for rule, count in rows if rule != "all"}


def results(project: Path) -> dict[str, bytes]:
    """All files of the study that must be the same on every run."""
    root = project / "results" / "tiny"
    files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not TIMES.search(name)}


def overlay(project: Path, **values: object) -> str:
    """A configuration of the tiny study with other values at dotted keys (dots written as __)."""
    study = yaml.safe_load((HOME / TINY).read_text())
    for key, value in values.items():
        *path, last = key.split("__")
        place = study
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    (project / "other.yaml").write_text(yaml.safe_dump(study))
    return "other.yaml"


def rounds(found: dict[str, int]) -> dict[str, int]:
    """Select the jobs that make rounds. The others take seconds: they collect results and draw figures."""
    return {rule: count for rule, count in found.items() if rule in ROUNDS_OF_A_STUDY}
