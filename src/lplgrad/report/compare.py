"""Draw how strategies compare: in every format that the outputs' endings name (.svg, .pdf, .png)."""

from __future__ import annotations

import argparse
from typing import Any

from lplgrad.analysis.measured import read_calibration, read_choices, read_measurements, read_timings
from lplgrad.machine.errors import UserError
from lplgrad.report import comparison_figures as figures
from lplgrad.report import style
from lplgrad.report.document import check_endings
from lplgrad.report.statistics_page import statistics
from lplgrad.study.reading import read_study_file

OF_STUDY = ("differences", "penalties", "ranks")
OF_BUDGET = ("cost", "calibration", "choices")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write."""

    check_endings(arguments.output, (".svg", ".pdf", ".png"))
    style.save(_figure(arguments), arguments.output)


def _figure(arguments: argparse.Namespace) -> Any:

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
