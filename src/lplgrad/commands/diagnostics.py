"""Look beyond accuracy: calibration after every round, and what every query chose, from the files of all rounds."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad diagnostics --study results/demo/study.yaml --output results/demo/statistics"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for calibration, choices and overlap.csv"
    )


def run(arguments: argparse.Namespace) -> None:
    """Read, compute and write."""
    from lplgrad.configuration import read_study_file
    from lplgrad.files import write_text
    from lplgrad.report import diagnostics

    file = read_study_file(arguments.study)
    tables = {
        "calibration": diagnostics.calibration(file),
        "choices": diagnostics.choices(file),
        "overlap": diagnostics.overlap(file),
    }
    for name, table in tables.items():
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
