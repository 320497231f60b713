"""Set up torch and the device that a job computes on."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lplgrad.machine.errors import UserError
from lplgrad.study.settings import Compute

# Messages of PyTorch's allocators, CUDA and its libraries, HIP, C++ and the operating system when memory runs out, in
# lower case and without spaces and underscores. CUDNN_STATUS_INTERNAL_ERROR and CUBLAS_STATUS_NOT_INITIALIZED are not
# included: they have other causes too.
LACKS_MEMORY = (
    "outofmemory|alloc(ation)?failed|memoryallocation|statusmemoryerror|"
    "can('t|not)allocatememory|notenoughmemory|badalloc"
)


def set_up(compute: Compute) -> torch.device:
    """Choose the device and set up torch for a job. Only this function and ``tf32`` change torch's global state.

    Raises:
        UserError: the settings require a GPU, and torch sees none.
    """
    # Makes cuBLAS choose the same algorithms in every run. It must be set before CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    _keep_memory()
    torch.set_num_threads(compute.threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # PyTorch enables it for convolutions
    available = torch.cuda.is_available()
    if compute.device == "cuda" and not available:
        raise UserError("compute.device: cuda, but torch sees no GPU; check the driver, or set it to auto or cpu")
    if compute.device == "cpu" or not available:
        return torch.device("cpu")
    # On a GPU only: all operations used here are deterministic on a CPU. torch.use_deterministic_algorithms does the
    # same, but imports the compiler.
    torch.set_deterministic_debug_mode("error" if compute.deterministic else "default")
    # Deterministic mode also fills all new memory, in case it is read before it is written. No code here does that.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda")


def _keep_memory() -> None:
    """Make glibc keep freed memory for reuse.

    Otherwise the kernel clears the pages of each large block again, which takes a tenth of the training time on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0)  # M_MMAP_MAX
        mallopt(-1, -1)  # M_TRIM_THRESHOLD


def to_tensor(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy an array to the device."""
    return torch.from_numpy(np.array(array)).to(device)


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Let a GPU round the operands of float32 convolutions to TensorFloat-32, if enabled, as PyTorch does by default.

    Use it for training only: queries and evaluation always compute in float32. Matrix products do so everywhere.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def lacks_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out. PyTorch has its own type for some of these errors, but not for all."""
    words = re.sub(r"[\s_]", "", str(error)).lower()
    return isinstance(error, torch.OutOfMemoryError) or re.search(LACKS_MEMORY, words) is not None
