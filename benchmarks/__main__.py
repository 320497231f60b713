"""python -m benchmarks [--only NAME] [--threads N] [--quick]: measure, and write results/<machine>.md and .csv."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import warnings
from pathlib import Path

import torch

from benchmarks import measure
from lplgrad.machine import devices
from lplgrad.study.settings import Compute

BENCHMARKS = (
    "gradient_norms", "precision", "coreset", "strategies", "training", "recipes", "accuracy", "rates", "orchestration",
)  # fmt: skip
THREADED = ("gradient_norms", "training")


def main() -> None:
    """Run the benchmarks, one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be given several times")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    parser.add_argument(
        "--threads", type=int, help="of torch; by default 1, as a study's jobs, and what speeds up with all cores too"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="backpack|opacus")
    for name in arguments.only or BENCHMARKS:
        all_cores = [os.cpu_count() or 1] if name in THREADED and not torch.cuda.is_available() else []
        for threads in [arguments.threads] if arguments.threads else sorted({1, *all_cores}):
            devices.set_up(Compute(threads=threads))
            found: list[measure.Figure] = []
            for figure in importlib.import_module(f"benchmarks.{name}").run(arguments.quick):
                found.append(figure)
                ratio = "" if figure.ratio is None else f"  x{figure.ratio:.2f}"
                what = f"{name}, {figure.setting}, {threads} threads: {figure.case}"
                note = f"  ({figure.note})" if figure.note else ""
                value = "" if math.isnan(figure.median) else f" {figure.median:.4g} {figure.unit}"
                print(f"{what}{value}{ratio}{note}", flush=True)
            path = measure.write(arguments.output, found)
    print(path)


if __name__ == "__main__":
    main()
