"""Compare strategies by their measurements: tables of every statistic as .csv, and a page to read."""

from __future__ import annotations

import argparse
from pathlib import Path

from lplgrad.commands.common import add_partial

EXAMPLE = (
    "lplgrad statistics --study results/demo/study.yaml --measurements results/demo/measurements.csv "
    "--output results/demo/statistics"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument("--measurements", type=Path, required=True, metavar="CSV", help="measurements.csv")
    parser.add_argument(
        "--accuracies", type=float, nargs="+", default=[], metavar="PERCENT",
        help="accuracies to ask for the labels of (default: round numbers on the curves)",
    )  # fmt: skip
    add_partial(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the tables and the page")


def run(arguments: argparse.Namespace) -> None:
    """Compute and write."""
    from lplgrad.configuration import read_study_file
    from lplgrad.files import write_text
    from lplgrad.report.document import Part, document
    from lplgrad.report.measured import mixed_versions, read_measurements
    from lplgrad.report.statistics import parts, statistics

    file = read_study_file(arguments.study)
    measurements = read_measurements(arguments.measurements, file, arguments.partial)
    found = statistics(measurements, file.study.run.strategies, arguments.accuracies)
    for name, table in found.tables().items():
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    page = document(
        f"Statistics: {file.study.title}",
        [Part(text=(mixed_versions(measurements),)), *parts(found, measurements, file)],
    )
    write_text(arguments.output / "statistics.html", page)
