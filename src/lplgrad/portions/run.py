"""There: run the next chains, and write an archive of each that is complete."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lplgrad.errors import UserError
from lplgrad.files import beside
from lplgrad.portions.chains import FOLDER, MIB, code, files_of, images, in_turn, is_complete, plan, read, snakemake

if TYPE_CHECKING:
    from lplgrad.study import Chain, Layout

LIMIT = 16 * MIB  # one file that comes back
LOG = FOLDER / "snakemake.log"


class Clock:
    """Seconds since it was made, before every line of progress."""

    def __init__(self, minutes: float) -> None:
        self.began = time.monotonic()
        self.end = self.began + 60 * minutes

    def say(self, text: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)


def run(output: Path, at_a_time: int = 1, at_most: int = 8, minutes: float = 9) -> None:
    """Run the next chains until the time is spent."""
    clock = Clock(minutes)
    planned = plan()
    if planned["code"] != code():
        raise UserError("the code is not what it was when `pack` ran; pack again")
    environment = install()
    unpack_images()
    layout = read(planned["files"])
    chains = in_turn(layout)
    todo = [name for name in chains if name in planned["todo"]][:at_most]
    output.mkdir(parents=True, exist_ok=True)
    clock.say(f"ready; at most {len(todo)} chain(s), {at_a_time} at a time")
    slowest, done = 0.0, 0
    while todo:
        began = time.monotonic()
        if began + 1.05 * slowest > clock.end:
            clock.say(f"the next would take {slowest:.0f} s: left for another portion")
            break
        batch, todo = todo[:at_a_time], todo[at_a_time:]
        targets = sorted({name for part in batch for name in files_of(layout, chains[part])})
        command = snakemake(planned["files"], *targets, "--resources", f"gpu={at_a_time}", "--nolock")
        in_time = watch(command, Path("logs") / layout.root.name, environment, clock)
        slowest = max(slowest, time.monotonic() - began)
        whole = {name: chains[name] for name in batch if is_complete(layout, chains[name])}
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: write_archive(layout, chains[name], name, planned["todo"][name], output), whole))
        done += len(whole)
        clock.say(f"complete: {', '.join(whole) or 'none'}")
        if not in_time:
            clock.say(f"out of time; lost: {', '.join(name for name in batch if name not in whole) or 'nothing'}")
            break
    if not done and planned["todo"]:
        raise UserError(f"no chain is complete; see {LOG}, or run fewer at a time for longer")


def install() -> dict[str, str]:
    """Install the packages that came along into a folder of their own.

    Returns:
        The environment in which Snakemake and its jobs find them.
    """
    site, wheels = FOLDER / "site", sorted((FOLDER / "wheels").glob("*.whl"))
    if not wheels:
        return dict(os.environ)
    if not site.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        temporary = FOLDER / ".site.tmp"
        subprocess.run([*pip, "--upgrade", "--target", str(temporary), *map(str, wheels)], check=True)
        temporary.rename(site)
    sys.path.insert(0, str(site.resolve()))
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site.resolve()), os.environ.get("PYTHONPATH", "")])}


def unpack_images() -> None:
    """Unpack the images that came along, once."""
    for path in sorted((FOLDER / "images").glob("*.tar.xz")):
        unpacked = path.with_suffix(".unpacked")
        if not unpacked.exists():
            with tarfile.open(path) as archive:
                archive.extractall(filter="data")
            unpacked.touch()


def watch(command: list[str], logs: Path, environment: dict[str, str], clock: Clock) -> bool:
    """Run Snakemake, with a line for every job that ends; when the time is spent it is killed with its jobs.

    Returns:
        Whether it ended in time, whatever became of its jobs.
    """
    seen = finished(logs)
    with LOG.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        while (running := process.poll() is None) and time.monotonic() < clock.end:
            time.sleep(0.3)
            seen = tell(logs, seen, clock)
        if running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    tell(logs, seen, clock)
    if process.returncode and not running:
        print("\n".join(LOG.read_text(errors="replace").splitlines()[-40:]), flush=True)
    return not running


def finished(logs: Path) -> dict[Path, float]:
    """The jobs that ended, with their seconds: Snakemake writes a benchmark of each."""
    tables = {path: path.read_text().splitlines() for path in logs.rglob("*.tsv")}
    return {path: float(lines[1].split("\t")[0]) for path, lines in tables.items() if len(lines) > 1}


def tell(logs: Path, seen: dict[Path, float], clock: Clock) -> dict[Path, float]:
    """Tell of the jobs that ended since."""
    now = finished(logs)
    for path in now.keys() - seen.keys():
        clock.say(f"{path.relative_to(logs).with_suffix('')}: {now[path]:.1f} s")
    return now


def write_archive(layout: Layout, chain: Chain, name: str, made_by: str, folder: Path) -> None:
    """Archive a chain's results, with what they follow from; in pieces where it is too large to come back whole."""
    about: dict[str, Any] = {"chain": name, "identity": made_by, "images": images(layout, chain)}
    text = json.dumps(about).encode()
    target = folder / f"{layout.root.name}-{name.replace('/', '-')}.tar.xz"
    with beside(target) as temporary, tarfile.open(temporary, "w:xz") as archive:
        entry = tarfile.TarInfo("portion.json")
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
        for path in files_of(layout, chain):
            archive.add(path)
    content = target.read_bytes()
    if len(content) > LIMIT:
        for number, start in enumerate(range(0, len(content), LIMIT), start=1):
            target.with_name(f"{target.name}.{number}").write_bytes(content[start : start + LIMIT])
        target.unlink()
        print(f"{len(content) / MIB:.1f} MiB, in pieces; to be merged: cat {target.name}.* > {target.name}", flush=True)
