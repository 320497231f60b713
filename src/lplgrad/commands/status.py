"""Tell how far a study is: rounds, accuracy and seconds so far, what runs, what failed and its log, what is left."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad status config.yaml demo.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="configuration files, each merged over the ones before"
    )


def run(arguments: argparse.Namespace) -> None:
    """Look and print."""
    from lplgrad.configuration import left_out, read_study
    from lplgrad.status import report
    from lplgrad.study import Layout, changed_originals, lost_datasets, lost_message

    study = read_study(arguments.files)
    for problem in changed_originals(study).values():
        print(f"changed: {problem}")
    for name in lost_datasets(study):
        print(f"not prepared: {lost_message(study, name)}")
    for line in report(Layout(study, left_out(study))):
        print(line)
