"""What the workflow costs beside its work: planning config.yaml, starting and ending a job, opening a data set."""

from __future__ import annotations

import json
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
from lplgrad.datasets.prepared.arrays import Examples, open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine import fork_server
from lplgrad.rounds.files import write_labeled
from lplgrad.rounds.pool import LabeledSet
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
SEEDS = (1, 5, 10, 20)  # of config.yaml: about 900 jobs each
TRAINING = "--data data --labeled labeled.csv --round 1 --seed 1 --output round1 --settings backbone.name=small_resnet"
TRAINING += " backbone.width=4 training.epochs=1 training.milestones=[]"


def run(quick: bool) -> Iterator[Figure]:
    """Processor seconds and memory of dry runs, seconds of starting jobs and of opening data sets."""
    with tempfile.TemporaryDirectory() as folder:
        for seeds in SEEDS[:1] if quick else SEEDS:
            yield from dry_run(Path(folder) / str(seeds), seeds)
    yield from starting(1 if quick else 10)
    for name, count, side in (("CIFAR-10's size", 50_000, 32), ("Caltech-101's at 224", 200 if quick else 5_800, 224)):
        with tempfile.TemporaryDirectory() as folder:
            write_images(Path(folder), count, side)
            taken = []
            for _ in range(5):
                start = time.perf_counter()
                open_dataset(Path(folder))
                taken.append(time.perf_counter() - start)
        low, median, high = quartiles(taken)
        yield Figure(NAME, "opening a data set", name, "s", len(taken), median, low, high)


def write_images(folder: Path, count: int, side: int) -> None:
    """Write a data set of black images."""
    images = Examples(np.zeros((count, side, side, 3), dtype=np.uint8), np.arange(count, dtype=np.int64) % 10)
    write_dataset(folder, Prepared(images, images, [str(k) for k in range(10)], {}))


def starting(repeats: int) -> Iterator[Figure]:
    """A training of 20 images of 8x8, less the seconds that it trains and tests: as a fork and as a new process."""
    server = fork_server.socket_path()
    fork_server.start(server, print)
    new = [sys.executable, "-m", "lplgrad"]
    forked = [sys.executable, "-I", "-S", str(fork_server.CLIENT), str(server)]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "data", 40, 8)
        write_labeled(Path(folder) / "labeled.csv", LabeledSet().extended(np.arange(20), np.zeros(20, np.int64), 1))
        for case, command in {"forked": forked, "a new process": new}.items():
            taken = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                subprocess.run([*command, "train", *TRAINING.split()], cwd=folder, check=True, capture_output=True)
                taken.append(time.perf_counter() - start)
                timing = json.loads((Path(folder) / "round1" / "timing.json").read_text())
                taken[-1] -= timing["train_seconds"] + timing["test_seconds"]
            low, median, high = quartiles(taken[1:])  # the first one warms up
            yield Figure(NAME, "starting and ending a training", case, "s", repeats, median, low, high)
    fork_server.stop()


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
