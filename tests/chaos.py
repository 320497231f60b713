"""Pull the plug on a study, again and again, and see that nothing is lost but epochs (`make chaos`).

A small study runs undisturbed. Then it runs again while processes are killed with SIGKILL at random moments: a job, all
jobs, a client of the fork server, the server, Snakemake alone, or everything at once. After each death of Snakemake
the folder is unlocked and the same command given again, as a user would. In the end all labels, scores, checkpoints,
metrics, tables and figures must be those of the undisturbed run, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.runs import copy_project, overlay, results, snakemake

SNAKEMAKE = (sys.executable, "-m", "snakemake")
EPOCH = r"^epoch \d+/"
HOW = ("one job", "all jobs", "one client", "the fork server", "Snakemake alone", "everything")


@dataclass
class Losses:
    """What a campaign cost.

    Attributes:
        kills: how often each kind of kill was done.
        epochs: trained again, by what the logs tell: those of the campaign less those of the undisturbed run.
        resumed: how often a training went on within its round.
        different: files that are not those of the undisturbed run, and how: another one, missing, or left over.
    """

    kills: Counter[str] = field(default_factory=Counter)
    epochs: int = 0
    resumed: int = 0
    different: list[str] = field(default_factory=list)


def processes(project: Path, kind: str = "") -> list[int]:
    """Return the living processes that run in the folder of a project.

    Args:
        project: the folder.
        kind: only jobs that train or query (``job``), clients of the fork server (``client``), or the server itself
            (``server``).
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.joinpath("cwd").readlink() == project.resolve() and "State:\tZ" not in _read(folder / "status"):
                of_kind = _kind(_read(folder / "comm").strip(), _read(folder / "cmdline").replace("\0", " "))
                found += [int(folder.name)] if kind in ("", of_kind) else []
        except OSError:
            continue  # it has ended
    return found


def _kind(name: str, command: str) -> str:
    if name in ("lplgrad train", "lplgrad query") or re.search(r"-m lplgrad (train|query) ", command):
        return "job"
    if command.startswith(f"{sys.executable} -I -S ") and "fork_client.py" in command:
        return "client"
    return "server" if "-m lplgrad.machine.fork_server" in command and not name.startswith("lplgrad") else "other"


def _read(path: Path) -> str:
    return path.read_text(errors="replace")


def kill(pids: Iterable[int]) -> None:
    """SIGKILL."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def keep_logs(project: Path) -> None:
    """Keep every training's log under a second name: Snakemake deletes it when the training is tried again, and a job
    that it left behind may still be writing to it."""
    kept = project / "kept"
    kept.mkdir(exist_ok=True)
    for log in project.glob("logs/**/train.log"):
        with suppress(FileNotFoundError, FileExistsError):
            (kept / str(log.stat().st_ino)).hardlink_to(log)


def lines_of(project: Path, words: str) -> int:
    """How often the logs that were kept have some words."""
    keep_logs(project)
    logs = (log.read_text(errors="replace") for log in (project / "kept").iterdir())
    return sum(len(re.findall(words, text, re.MULTILINE)) for text in logs)


def campaign(
    folder: Path, kills: int, epochs: int, seed: int = 0, progress_seconds: float = 0.5, targets: Sequence[str] = ()
) -> Losses:
    """Run a study twice, once undisturbed, and compare.

    Args:
        folder: for the two copies of the project.
        kills: how many, if the study does not finish before.
        epochs: of a training; more make the study longer.
        seed: of the moments and kinds.
        progress_seconds: between two writes of a training's progress.
        targets: what is made; all of the study by default.
    """
    draw = random.Random(seed)
    changes = {
        "datasets__digits__training__epochs": epochs,
        "datasets__digits__training__batch_size": 10,
        "compute__progress_seconds": progress_seconds,
        "model_figures": {},
    }
    undisturbed, disturbed = copy_project(folder / "undisturbed"), copy_project(folder / "disturbed")
    snakemake(undisturbed, *targets, config=overlay(undisturbed, **changes))

    losses = Losses()
    config = overlay(disturbed, **changes)
    status, undisturbed_failures = 1, 0
    while status:
        with (folder / "snakemake.log").open("w") as told:
            process = subprocess.Popen(
                [*SNAKEMAKE, *targets, "--configfile", config],
                cwd=disturbed, stdout=told, stderr=told, start_new_session=True,
            )  # fmt: skip
            while process.poll() is None and losses.kills.total() < kills:
                until = time.monotonic() + draw.uniform(0.2, 3)
                while process.poll() is None and (time.monotonic() < until or not processes(disturbed, "job")):
                    keep_logs(disturbed)
                    time.sleep(0.05)
                if process.poll() is None:
                    _kill(draw.choice(HOW), process.pid, disturbed, draw, losses)
            while process.poll() is None:
                keep_logs(disturbed)
                time.sleep(0.05)
            status = process.returncode
        undisturbed_failures += status > 0 and losses.kills.total() >= kills
        if undisturbed_failures > 2:  # one may be of orphans that had to give way
            raise AssertionError((folder / "snakemake.log").read_text())
        subprocess.run([*SNAKEMAKE, "--unlock", "--configfile", config], cwd=disturbed, check=True, capture_output=True)
    while processes(disturbed):
        time.sleep(0.1)
    losses.epochs = lines_of(disturbed, EPOCH) - lines_of(undisturbed, EPOCH)
    losses.resumed = lines_of(disturbed, r"progress\.safetensors: continuing after epoch")
    before, after = results(undisturbed), results(disturbed)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            how = "left over" if name not in before else "missing" if name not in after else "another one"
            losses.different.append(f"{name} ({how})")
    return losses


def _kill(how: str, snakemake: int, project: Path, draw: random.Random, losses: Losses) -> None:
    """One kill, noted."""
    victims = {
        "one job": processes(project, "job"),
        "all jobs": processes(project, "job"),
        "one client": processes(project, "client"),
        "the fork server": processes(project, "server"),
        "Snakemake alone": [snakemake],
        "everything": [snakemake, *processes(project)],
    }[how]
    kill([draw.choice(victims)] if victims and how.startswith("one ") else victims)
    losses.kills[how] += bool(victims)
    print(f"kill {losses.kills.total()}: {how}", file=sys.stderr, flush=True)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=300, help="of a training (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and kinds (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        losses = campaign(Path(folder), arguments.kills, arguments.epochs, arguments.seed)
    print(f"kills: {losses.kills.total()} ({', '.join(f'{how} {count}' for how, count in losses.kills.items())})")
    print(f"epochs trained again: {losses.epochs}; trainings taken up within their round: {losses.resumed}")
    print(f"files that differ from the undisturbed run: {', '.join(losses.different) or 'none'}")
    return int(bool(losses.different) or losses.kills.total() < arguments.kills)


if __name__ == "__main__":
    sys.exit(main())
