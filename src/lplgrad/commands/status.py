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
    from lplgrad.errors import UserError
    from lplgrad.status import report
    from lplgrad.study import (
        Layout,
        changed_originals,
        check_prepared_datasets,
        lost_datasets,
        lost_message,
        preparation_warnings,
    )

    study = read_study(arguments.files)
    try:
        check_prepared_datasets(study)
        problems = [f"changed: {problem}" for problem in changed_originals(study).values()]
    except UserError as error:
        problems = [f"wrong data: {error}"]
    problems += [f"not prepared: {lost_message(study, name)}" for name in lost_datasets(study)]
    for name in study.run.datasets:
        problems += preparation_warnings(study, name)
    for line in problems:
        print(line)
    for line in report(Layout(study, left_out(study))):
        print(line)
