"""What the workflow costs beside its work: building the DAG of config.yaml, starting a job, opening a data set."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Figure, quartiles
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import Images, open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.study.reading import read_study

NAME = "orchestration"
HOME = Path(__file__).parents[1]
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(code)
"""
STARTED = {
    "nothing": "pass",
    "lplgrad --help": "from lplgrad.cli import parser; parser()",
    "import torch": "import torch",
    "lplgrad train, before its work": "from lplgrad import cli, evaluation, networks, training; cli.parser()",
}


def run(quick: bool) -> Iterator[Figure]:
    """Processor seconds and memory of a dry run, of starting jobs, of opening data sets."""
    with tempfile.TemporaryDirectory() as folder:
        for seeds in (1, 2) if quick else (1, 2, 5):
            yield from dry_run(Path(folder) / str(seeds), seeds)
    for case, script in STARTED.items():
        used = [processor_seconds([sys.executable, "-c", script], HOME)[0] for _ in range(1 if quick else 5)]
        low, median, high = quartiles(used)
        yield Figure(NAME, "starting a job", case, "processor s", len(used), median, low, high)
    for name, count, side in (("CIFAR-10's size", 50_000, 32), ("Caltech-101's at 224", 200 if quick else 5_800, 224)):
        with tempfile.TemporaryDirectory() as folder:
            labels = np.arange(count, dtype=np.int64) % 10
            images = Images(np.zeros((count, side, side, 3), dtype=np.uint8), labels)
            write_dataset(Path(folder), Prepared(images, images, [str(k) for k in range(10)], {}))
            taken = []
            for _ in range(5):
                start = time.perf_counter()
                open_dataset(Path(folder))
                taken.append(time.perf_counter() - start)
        low, median, high = quartiles(taken)
        yield Figure(NAME, "opening a data set", name, "s", len(taken), median, low, high)


def dry_run(folder: Path, seeds: int) -> Iterator[Figure]:
    """``snakemake --dry-run`` of config.yaml with so many seeds, its data sets taken for prepared."""
    folder.mkdir()
    for name in ("src", "workflow", "report", "envs", "studies"):
        shutil.copytree(HOME / name, folder / name)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(HOME / name, folder)
    for name in read_study([HOME / "config.yaml"]).run.datasets:
        (folder / "data" / name).mkdir(parents=True)
        for file in ("provenance.json", *(f"{s}_{k}.npy" for s in ("train", "test") for k in ("images", "labels"))):
            (folder / "data" / name / file).touch()
        (folder / "data" / name / "dataset.json").write_text("{}")
    (folder / "seeds.yaml").write_text(f"run: {{seeds: {list(range(1, seeds + 1))}}}\n")
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet", "rules", "--configfile", "seeds.yaml"]
    seconds, memory, told = processor_seconds(command, folder)
    jobs = re.search(r"^total\s+(\d+)", told, re.MULTILINE)
    setting = f"snakemake --dry-run of config.yaml, {seeds} seeds, {jobs[1] if jobs else '?'} jobs"
    yield Figure(NAME, setting, "seconds", "processor s", 1, seconds)
    yield Figure(NAME, setting, "peak memory", "MB", 1, memory)


def processor_seconds(command: list[str], folder: Path) -> tuple[float, float, str]:
    """Processor seconds and peak memory in MB of a command and of what it starts, and what it said.

    A small process starts it: a process's peak is never told as less than that of the one it was forked from.
    """
    path = os.pathsep.join([str(folder / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    *told, used = done.stdout.splitlines()
    seconds, kilobytes = map(float, used.split())
    return seconds, kilobytes / 1024, "\n".join([*told, done.stderr])
