"""What a job records about its cost: seconds, peak memory, and the machine.

Torch is imported only if a device is given: a random query has none, and skips the import.
"""

from __future__ import annotations

import platform
import re
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lplgrad import __version__

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Measure seconds on the monotonic clock, waiting for a GPU's queue at both ends."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.synchronize()
        self.start = time.monotonic()

    def seconds(self) -> float:
        """Return the seconds since the stopwatch was created."""
        self.synchronize()
        return time.monotonic() - self.start

    def synchronize(self) -> None:
        """Wait until a GPU has finished its queue."""
        if self.device is not None and self.device.type == "cuda":
            import torch  # see the module's docstring

            torch.cuda.synchronize(self.device)


def peak_memory_mb(device: torch.device | None) -> float:
    """Return this process's peak memory in MiB: on a GPU what torch allocated there, else the resident set.

    The resident set of a forked job contains what it shares with the fork server.
    """
    if device is not None and device.type == "cuda":
        import torch  # see the module's docstring

        return torch.cuda.max_memory_allocated(device) / 2**20
    # On Linux, getrusage may report the peak of the process that started this one.
    if peak := _line(Path("/proc/self/status"), "VmHWM"):
        return int(peak.split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if platform.system() == "Linux" else 2**20)


def describe(device: torch.device | None) -> dict[str, Any]:
    """Return the host, the device, the number of torch threads and the versions, for a timing file."""
    machine: dict[str, Any] = {
        "host": platform.node(),
        "device": _line(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "versions": {"lplgrad": __version__, "python": platform.python_version()},
    }
    if device is not None:
        import torch  # see the module's docstring

        machine["threads"] = torch.get_num_threads()
        machine["versions"]["torch"] = torch.__version__
        if device.type == "cuda":
            machine["device"] = torch.cuda.get_device_name(device)
            machine["versions"]["cuda"] = torch.version.cuda
    return machine


def _line(path: Path, key: str) -> str | None:
    """Return the value of the first line ``key: value`` of a file, or None if the file or the line is missing."""
    text = path.read_text(errors="replace") if path.exists() else ""
    found = re.search(rf"^{key}\s*:(.*)", text, re.MULTILINE)
    return found[1].strip() if found else None
