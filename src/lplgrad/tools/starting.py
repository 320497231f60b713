"""How long a job takes to start on this machine, and how many jobs it runs at a time."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import torch

from lplgrad.machine import fork_server
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.study.settings import Study


def start_seconds(repeats: int, device: torch.device) -> float:
    """Measure the median seconds to start a job and end it at once: as a fork where Snakemake would fork.

    On a GPU, the start of CUDA and of its libraries is added.
    """
    new = [sys.executable, "-c", "import lplgrad.rounds.training"]
    found = None
    if sys.platform == "linux":
        problems: list[object] = []
        path = fork_server.socket_path()
        try:
            fork_server.start(path, problems.append)
            command = [sys.executable, "-I", "-S", str(fork_server.CLIENT), str(path), "train", "--help"]
            found = None if problems else _seconds(command, repeats, "no fork server")
        finally:
            fork_server.stop()
        if found is None:
            say(
                "warning: the fork server does not start here, so the start of a job is that of a new process"
                + "".join(f" ({problem})" for problem in problems)
            )
    if found is None:
        found = _seconds(new, repeats)
        assert found is not None
    return found + (cuda_seconds(repeats) if device.type == "cuda" else 0.0)


def _seconds(command: list[str], repeats: int, unless: str = "") -> float | None:
    """Return the median seconds of a command, or None if it writes ``unless`` to standard error."""
    seconds = []
    for _ in range(repeats + 1):
        before = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        seconds.append(time.perf_counter() - before)
        if unless and unless in done.stderr:
            return None
        if done.returncode:
            raise UserError(f"a job does not start here ({' '.join(done.stderr.split())[-300:]})")
    return statistics.median(seconds[1:])


CUDA = """
import time, torch
before = time.perf_counter()
images = torch.zeros(1, 3, 8, 8, device="cuda", requires_grad=True)
torch.nn.functional.conv2d(images, torch.zeros(4, 3, 3, 3, device="cuda")).flatten(1).matmul(
    torch.zeros(144, 2, device="cuda")).sum().backward()
torch.cuda.synchronize()
print(time.perf_counter() - before)
"""


def cuda_seconds(repeats: int) -> float:
    """Measure the median seconds that a new process needs for its first convolution and product on a GPU."""
    seconds = []
    for _ in range(repeats + 1):
        done = subprocess.run([sys.executable, "-c", CUDA], check=True, capture_output=True, text=True)
        seconds.append(float(done.stdout))
    return statistics.median(seconds[1:])


def jobs_at_a_time(study: Study) -> tuple[int, str]:
    """Return how many jobs this machine would run at a time, and what that follows from."""
    compute = study.compute
    if compute.device != "cpu" and torch.cuda.is_available():
        cards = torch.cuda.device_count()
        return cards * compute.jobs_per_gpu, f"{cards} GPU x {compute.jobs_per_gpu} (compute.jobs_per_gpu)"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // compute.threads), f"{cores} CPU cores / {compute.threads} (compute.threads)"
