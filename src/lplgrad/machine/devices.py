"""The machine: which device a job computes on, how torch is set up there, and what is noted of it.

Torch is imported by the functions, not by the module: what a job needs to decide before that import stays possible.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lplgrad import __version__
from lplgrad.machine.errors import UserError
from lplgrad.study.settings import Compute

if TYPE_CHECKING:
    import torch


def set_up(compute: Compute) -> torch.device:
    """Choose the device and set up torch for a job. Nothing else in the program touches torch's global state.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    # Without it cuBLAS may choose other algorithms from run to run; it must be set before CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    _keep_memory()
    torch.set_num_threads(compute.threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # PyTorch leaves this on for convolutions
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise UserError("compute.device: cuda, but torch sees no GPU; check the driver, or set it to auto or cpu")
    if not available or compute.device == "cpu":
        return torch.device("cpu")
    # Only for a GPU: the call imports the compiler, and on the CPU every operation used here is deterministic.
    torch.use_deterministic_algorithms(compute.deterministic)
    return torch.device("cuda")


def _keep_memory() -> None:
    """Have glibc keep the memory that a tensor leaves for the next one.

    By default it returns every large block to the kernel, which must then clear each page anew: a tenth of the time of
    training on a CPU. PyTorch itself holds no memory back there, as it does on a GPU. Elsewhere nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, mmap_max = -1, -4  # malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Within it, a GPU rounds the operands of float32 convolutions and matrix products to TensorFloat-32, if enabled.

    Around training alone: queries and evaluation stay float32 whatever the precision of training.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


# What errors of a lack of memory say, in lower case, without spaces and underscores: those of PyTorch's allocators, of
# the CUDA and HIP runtimes, of cuBLAS, cuSOLVER, cuSPARSE, cuFFT and cuDNN, of C++ and of the operating system. A plain
# CUDNN_STATUS_INTERNAL_ERROR or CUBLAS_STATUS_NOT_INITIALIZED is not among them, since it may mean anything.
LACKS_MEMORY = (
    "outofmemory",
    "allocfailed",
    "allocationfailed",
    "memoryallocation",
    "statusmemoryerror",
    "can'tallocatememory",
    "cannotallocatememory",
    "notenoughmemory",
    "badalloc",
)


def lacks_memory(error: RuntimeError) -> bool:
    """Whether memory ran out. PyTorch has a type of its own for some of these errors; the others say it in words."""
    import torch

    words = re.sub(r"[\s_]", "", str(error)).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(word in words for word in LACKS_MEMORY)


class Stopwatch:
    """Seconds on the monotonic clock, the device's queue drained at both ends."""

    def __init__(self, device: torch.device | None) -> None:
        self.device = device
        self.synchronize()
        self.start = time.monotonic()

    def seconds(self) -> float:
        """Seconds since the watch was made."""
        self.synchronize()
        return time.monotonic() - self.start

    def synchronize(self) -> None:
        """Wait for what was asked of a GPU."""
        if self.device is not None and self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)


def peak_memory_mb(device: torch.device | None) -> float:
    """Highest memory of this process so far: on a GPU what torch allocated there, else the resident set."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak may be that of the process that this one was started by
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if platform.system() == "Linux" else 2**20)


def describe(device: torch.device | None) -> dict[str, Any]:
    """The machine and the versions, for a timing file."""
    machine: dict[str, Any] = {
        "host": platform.node(),
        "device": _processor(),
        "versions": {"lplgrad": __version__, "python": platform.python_version()},
    }
    if device is not None:
        import torch

        machine["threads"] = torch.get_num_threads()
        machine["versions"]["torch"] = torch.__version__
        if device.type == "cuda":
            machine["device"] = torch.cuda.get_device_name(device)
            machine["versions"]["cuda"] = torch.version.cuda
    return machine


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
