"""Pull the plug on a study, again and again, and see that nothing is lost but epochs (`make chaos`).

A small study is run undisturbed. Then it is run while processes are killed with SIGKILL at random moments: a job, all
jobs, Snakemake alone (its jobs go on as orphans), or everything at once; after each death of Snakemake the folder is
unlocked and the same command given again, as a user would. In the end all labels, scores, checkpoints, metrics, tables
and figures must be those of the undisturbed run, byte for byte.
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

from tests.test_workflow import copy_project, overlay, results, snakemake

SNAKEMAKE = (sys.executable, "-m", "snakemake")
EPOCH = r"^epoch \d+/"
HOW = ("one job", "all jobs", "Snakemake alone", "everything")


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


def processes(session: int) -> dict[int, str]:
    """Command lines of the living processes of a session."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it ended meanwhile
    return found


def jobs(session: int) -> dict[int, str]:
    """The processes of a session that train or query, with the folders of their rounds."""
    found = {}
    for pid, command in processes(session).items():
        output = re.search(r"-m lplgrad (?:train|query) .* --output (\S+)", command)
        if output:
            found[pid] = output[1]
    return found


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
    sessions: list[int] = []
    status, undisturbed_failures = 1, 0
    while status:
        with (folder / "snakemake.log").open("w") as told:
            process = subprocess.Popen(
                [*SNAKEMAKE, *targets, "--configfile", config],
                cwd=disturbed, stdout=told, stderr=told, start_new_session=True,
            )  # fmt: skip
            sessions.append(process.pid)
            while process.poll() is None and losses.kills.total() < kills:
                until = time.monotonic() + draw.uniform(0.2, 3)
                while process.poll() is None and (time.monotonic() < until or not jobs(process.pid)):
                    keep_logs(disturbed)
                    time.sleep(0.05)
                if process.poll() is None:
                    _kill(draw.choice(HOW), process.pid, draw, losses)
            while process.poll() is None:
                keep_logs(disturbed)
                time.sleep(0.05)
            status = process.returncode
        undisturbed_failures += status > 0 and losses.kills.total() >= kills
        if undisturbed_failures > 2:  # one may be of orphans that had to give way
            raise AssertionError((folder / "snakemake.log").read_text())
        subprocess.run([*SNAKEMAKE, "--unlock", "--configfile", config], cwd=disturbed, check=True, capture_output=True)
    for session in sessions:
        while processes(session):
            time.sleep(0.1)
    losses.epochs = lines_of(disturbed, EPOCH) - lines_of(undisturbed, EPOCH)
    losses.resumed = lines_of(disturbed, r"progress\.safetensors: continuing after epoch")
    before, after = results(undisturbed), results(disturbed)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            how = "left over" if name not in before else "missing" if name not in after else "another one"
            losses.different.append(f"{name} ({how})")
    return losses


def _kill(how: str, session: int, draw: random.Random, losses: Losses) -> None:
    """One kill, noted."""
    victims = jobs(session)
    if how == "one job" and victims:
        victims = dict([draw.choice(sorted(victims.items()))])
    if how == "Snakemake alone":
        victims = {}
        kill([session])
    elif how == "everything":
        kill([session])
        kill(processes(session))
    else:
        kill(victims)
    losses.kills[how] += 1
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
