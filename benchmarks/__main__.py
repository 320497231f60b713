"""python -m benchmarks [--only NAME] [--threads N] [--quick]: measure, and write results/<machine>.md and .csv."""

from __future__ import annotations

import argparse
import importlib
import warnings
from pathlib import Path

import torch

from benchmarks import measure

BENCHMARKS = ("gradient_norms", "precision", "coreset", "training", "accuracy", "rates", "orchestration")


def main() -> None:
    """Run the benchmarks, one after another."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="may be given several times")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    parser.add_argument("--threads", type=int, default=1, help="of torch; 1 is what a study's jobs have by default")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="backpack|opacus")
    torch.set_num_threads(arguments.threads)
    found: list[measure.Figure] = []
    for name in arguments.only or BENCHMARKS:
        for figure in importlib.import_module(f"benchmarks.{name}").run(arguments.quick):
            found.append(figure)
            ratio = "" if figure.ratio is None else f"  x{figure.ratio:.2f}"
            print(f"{name}, {figure.setting}: {figure.case} {figure.median:.4g} {figure.unit}{ratio}", flush=True)
    print(measure.write(arguments.output, found))


if __name__ == "__main__":
    main()
