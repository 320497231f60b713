"""Draw how strategies compare: in every format that the outputs' endings name (.svg, .pdf, .png)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lplgrad.commands.common import add_partial

EXAMPLE = (
    "lplgrad compare differences --study results/demo/study.yaml --measurements results/demo/measurements.csv "
    "--output differences.svg"
)
OF_STUDY = ("differences", "penalties", "ranks")
OF_BUDGET = ("cost", "calibration", "choices")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("kind", choices=[*OF_STUDY, *OF_BUDGET], help="which figure")
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument("--measurements", type=Path, metavar="CSV", help="measurements.csv, for the first four")
    parser.add_argument("--timings", type=Path, metavar="CSV", help="timings.csv, for cost")
    parser.add_argument("--diagnostics", type=Path, metavar="DIR", help="of lplgrad diagnostics, for the others")
    parser.add_argument("--budget", help=f"name of the budget, for {', '.join(OF_BUDGET)}")
    add_partial(parser)
    parser.add_argument("--output", type=Path, nargs="+", required=True, metavar="FILE", help="files to write")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write."""
    from lplgrad.commands.common import check_endings
    from lplgrad.report import style

    check_endings(arguments.output, (".svg", ".pdf", ".png"))
    style.save(_figure(arguments), arguments.output)


def _figure(arguments: argparse.Namespace) -> Any:
    from lplgrad.configuration import read_study_file
    from lplgrad.errors import UserError
    from lplgrad.report import comparison_figures as figures
    from lplgrad.report.measured import read_calibration, read_choices, read_measurements, read_timings
    from lplgrad.report.statistics import statistics

    needed = {"cost": ["measurements", "timings", "budget"], "calibration": ["diagnostics", "budget"]}
    needed["choices"] = needed["calibration"]
    for option in needed.get(arguments.kind, ["measurements"]):
        if getattr(arguments, option) is None:
            raise UserError(f"--{option}: missing: {arguments.kind} is drawn from it")
    file = read_study_file(arguments.study)
    if arguments.kind in OF_STUDY:
        measurements = read_measurements(arguments.measurements, file, arguments.partial)
        found = statistics(measurements, file.study.run.strategies)
        return {"differences": figures.differences, "penalties": figures.penalties, "ranks": figures.ranks}[
            arguments.kind
        ](found, file)
    if arguments.kind == "cost":
        measurements = read_measurements(arguments.measurements, file, arguments.partial)
        timings = read_timings(arguments.timings, file, arguments.partial)
        return figures.cost(measurements, timings, file, arguments.budget)
    if arguments.kind == "calibration":
        return figures.calibration(read_calibration(arguments.diagnostics, file), file, arguments.budget)
    return figures.choices(*read_choices(arguments.diagnostics, file), file, arguments.budget)
