"""What the benchmarks share: interleaved timing, the machine, and the files that results are written to."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import math
import multiprocessing
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lplgrad import __version__
from lplgrad.machine.files import write_text


@cache
def conditions() -> str:
    """The day, how busy the machine was when it was first asked, and the versions of all that the figures depend on."""
    found = [f"lplgrad {__version__}", f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    for name in ("backpack-for-pytorch", "opacus"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{date.today()}{load}, {', '.join(found)}"


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        benchmark: the module that measured it.
        setting: what it was measured on.
        case: what was measured.
        unit: of ``median``, ``low`` and ``high``.
        n: rounds, or repetitions.
        median: over the rounds.
        low, high: the quartiles; None where there is one number.
        ratio, ratio_low, ratio_high: median and quartiles of the quotient of this case and the reference, taken round
            by round, in which the drift of the machine cancels; None where there is no reference.
        threads: of torch.
        machine: when, on what load and with which versions it was measured.
        note: what else is to be said of the case; why it has no figure if ``median`` is NaN.
    """

    benchmark: str
    setting: str
    case: str
    unit: str
    n: int
    median: float
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    threads: int = field(default_factory=torch.get_num_threads)
    machine: str = field(default_factory=conditions)
    note: str = ""


def seconds_of(case: Callable[[], object]) -> float:
    """Seconds of one turn.

    With one thread these are the processor's, which on a quiet machine are those on the clock, and on a busy one leave
    out the waiting for others; with several, whose waiting for each other does count, and on a GPU, whose queue is
    drained at both ends, those on the clock.
    """
    gpu = torch.cuda.is_available()
    clock = time.process_time if torch.get_num_threads() == 1 and not gpu else time.perf_counter
    if gpu:
        torch.cuda.synchronize()
    start = clock()
    case()
    if gpu:
        torch.cuda.synchronize()
    return clock() - start


class OwnProcess:
    """A case in a process of its own, which has nothing of what the program sets up for its jobs.

    Args:
        make: a function of a module, which makes the case there from ``arguments``.
    """

    def __init__(self, make: Callable[..., Callable[[], object]], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        threads = torch.get_num_threads()
        self.process = context.Process(target=_serve, args=(other, threads, make, arguments))
        self.process.start()
        other.close()

    def seconds(self) -> float:
        """Seconds of one turn, measured there."""
        self.connection.send(None)
        return float(self.connection.recv())

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.join()


def _serve(
    connection: Connection, threads: int, make: Callable[..., Callable[[], object]], arguments: tuple[object, ...]
) -> None:
    torch.set_num_threads(threads)
    case = make(*arguments)
    with suppress(EOFError):
        while True:
            connection.recv()
            connection.send(seconds_of(case))


def interleave(cases: Mapping[str, Callable[[], object] | OwnProcess], rounds: int) -> dict[str, list[float]]:
    """Seconds of each case in each round. All cases take turns, in another order every round, after a first turn that
    does not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    order = random.Random(0)
    for count in range(rounds + 1):
        for name, case in order.sample(list(cases.items()), len(cases)):
            taken = case.seconds() if isinstance(case, OwnProcess) else seconds_of(case)
            if count:
                seconds[name].append(taken)
    return seconds


def kilobytes(what: str) -> int:
    """This process's memory, as Linux reports it: ``VmRSS`` now, ``VmHWM`` at its peak.

    The peak in ``getrusage`` would be that of the process that started it, if that was larger.
    """
    found = re.search(rf"^{what}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def operations(case: Callable[[], object]) -> int:
    """Floating-point operations of a case's convolutions and matrix products: two for a multiplication."""
    with FlopCounterMode(display=False) as counter:
        case()
    return int(counter.get_total_flops())


def matrix_products(total: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """About so many operations as products of large square matrices: a yardstick of what the machine can do."""
    side = 1024 if device.type == "cpu" else 8192
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = max(1, round(total / (2 * side**3)))

    def case() -> None:
        for _ in range(times):
            torch.mm(one, other)

    return case


def figures(
    benchmark: str, setting: str, each: Mapping[str, Sequence[float]], unit: str, reference: str
) -> list[Figure]:
    """Figures from what ``interleave`` measured, brought to the unit; ratios are to the case ``reference``."""
    found = []
    for case, values in each.items():
        low, median, high = quartiles(values)
        ratios = quartiles([value / base for value, base in zip(values, each[reference], strict=True)])
        found.append(
            Figure(benchmark, setting, case, unit, len(values), median, low, high, ratios[1], ratios[0], ratios[2])
        )
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    return low, median, high


def processor() -> str:
    """The processor's model, and what it has for matrix products; of a GPU its name as well."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name} ({os.cpu_count()} cores{''.join(f', {flag}' for flag in has)}){gpu}"


def file_name() -> str:
    """What the files of this machine are called: its processor, and its GPU where it has one."""
    has = re.sub(r"\(R\)|\(TM\)|CPU|Processor", "", processor()).replace(", ", " ")
    return re.sub(r"[^a-z0-9]+", "-", has.lower()).strip("-")


def write(folder: Path, found: Sequence[Figure]) -> Path:
    """Write the figures as a table to read and one to load; returns the former's path.

    Figures of benchmarks that were not run this time, or with other threads, stay as they are in the file.
    """
    table = folder / f"{file_name()}.csv"
    run = {(figure.benchmark, figure.threads) for figure in found}
    everything = sorted([*_read(table, run), *found], key=lambda figure: (figure.benchmark, figure.threads))
    rows = io.StringIO(newline="")
    writer = csv.DictWriter(rows, [column.name for column in fields(Figure)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(figure) for figure in everything)
    write_text(table, rows.getvalue())
    lines = [f"# {processor()}", "", "Median, and quartiles in brackets. [What the figures mean](../README.md)."]
    groups: dict[tuple[str, str, int], list[Figure]] = {}
    for figure in everything:
        groups.setdefault((figure.benchmark, figure.setting, figure.threads), []).append(figure)
    for (benchmark, setting, threads), group in groups.items():
        on = f"{threads} thread{'s' if threads > 1 else ''}"
        lines += ["", f"## {benchmark}: {setting}, {on}", "", group[0].machine + ".", ""]
        rows_of = [
            [
                figure.case,
                "" if math.isnan(figure.median) else f"{_spread(figure.median, figure.low, figure.high)} {figure.unit}",
                _spread(figure.ratio, figure.ratio_low, figure.ratio_high),
                str(figure.n),
                figure.note,
            ]
            for figure in group
        ]
        columns = ["case", "measured", "ratio", "n", "note"][: 5 if any(figure.note for figure in group) else 4]
        rows_of = [columns, ["---"] * len(columns), *rows_of]
        lines += [f"| {' | '.join(row[: len(columns)])} |" for row in rows_of]
    write_text(table.with_suffix(".md"), "\n".join(lines) + "\n")
    return table.with_suffix(".md")


def _read(table: Path, without: Collection[tuple[str, int]]) -> list[Figure]:
    """The figures of a file, but for those of some benchmarks with so many threads."""
    if not table.exists():
        return []
    kinds: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "float | None": lambda value: float(value) if value else None,
    }
    columns = [(column.name, kinds.get(str(column.type), str)) for column in fields(Figure)]
    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["benchmark"], int(row["threads"])) not in without]
    return [Figure(**{name: kind(row[name]) for name, kind in columns if name in row}) for row in rows]


def _spread(median: float | None, low: float | None, high: float | None) -> str:
    if median is None:
        return ""
    return f"{median:.3g}" + (f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else "")
