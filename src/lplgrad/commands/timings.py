"""Bring seconds together: one tidy row a round, from all timing.json and query_timing.json of a study."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad timings --study results/demo/study.yaml --output results/demo/timings.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--study", type=Path, required=True, metavar="FILE", help="study.yaml of the study")
    parser.add_argument("--output", type=Path, required=True, metavar="CSV", help="file to write")


def run(arguments: argparse.Namespace) -> None:
    """Collect and write."""
    from lplgrad.configuration import read_study_file
    from lplgrad.files import write_text
    from lplgrad.report import collect

    write_text(arguments.output, collect.timings(read_study_file(arguments.study)).to_csv(index=False))
