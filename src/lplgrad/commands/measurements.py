"""Bring accuracies together: one tidy row a round, and one a class and round, from all metrics.json of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad measurements --study results/demo/study.yaml --output results/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for measurements.csv and classes.csv"
    )


def run(arguments: argparse.Namespace) -> None:
    """Collect and write."""
    from lplgrad.configuration import read_study_file
    from lplgrad.files import write_text
    from lplgrad.report import collect

    file = read_study_file(arguments.study)
    departed = collect.departures(file, partial=False)
    measurements = collect.measurements(file, departed=departed)
    classes = collect.class_accuracies(file, departed=departed)
    for name, frame in (("measurements", measurements), ("classes", classes)):
        write_text(arguments.output / f"{name}.csv", frame.to_csv(index=False))
