"""Make a table: its numbers as .csv, and a page to read as .html."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = (
    "lplgrad table accuracy --study results/demo/study.yaml --measurements results/demo/measurements.csv "
    "--output accuracy.csv accuracy.html"
)
KINDS = ("accuracy", "time")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("kind", choices=KINDS, help="which table")
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument(
        "--measurements", type=Path, required=True, metavar="CSV", help="measurements.csv, or timings.csv for time"
    )
    parser.add_argument("--output", type=Path, nargs="+", required=True, metavar="FILE", help="files to write")


def run(arguments: argparse.Namespace) -> None:
    """Compute, lay out and write."""
    from lplgrad.commands.common import check_endings, read_measurements
    from lplgrad.files import write_text
    from lplgrad.report import tables
    from lplgrad.settings import read_study_file

    check_endings(arguments.output, (".csv", ".html"))
    file = read_study_file(arguments.study)
    if arguments.kind == "accuracy":
        table = tables.accuracy_table(read_measurements(arguments.measurements, ["accuracy", "labels"]))
        sections = tables.accuracy_sections(table, file)
        heading = "Test accuracy (%)"
        note = (
            "Mean ± sample standard deviation over seeds, after the last epoch of a round. "
            "Bold: the highest mean of a row."
        )
    else:
        table = tables.time_table(read_measurements(arguments.measurements, ["train_seconds", "query_seconds"]))
        sections = tables.time_sections(table, file)
        heading = "Time"
        note = (
            "Seconds of training and of the query alone, without starting a job and reading its files; means over "
            "seeds. A trial's training includes round 1, which strategies of one recipe share."
        )
    missing = "".join(f" {name} is missing: {reason}." for name, reason in file.unavailable.items())
    write = {
        ".csv": lambda: table.to_csv(index=False, float_format="%.6g"),
        ".html": lambda: tables.page(f"{heading}: {file.study.title}", sections, note + missing),
    }
    for path in arguments.output:
        write_text(path, write[path.suffix]())
