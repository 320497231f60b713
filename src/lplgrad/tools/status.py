"""Tell how far a study is: rounds, accuracy and seconds so far, what runs, what failed and its log, what is left."""

from __future__ import annotations

import argparse

from lplgrad.machine.errors import UserError
from lplgrad.study.availability import (
    changed_originals,
    check_prepared_datasets,
    lost_datasets,
    preparation_warnings,
)
from lplgrad.study.layout import Layout
from lplgrad.study.reading import left_out, read_study
from lplgrad.tools.progress import report


def run(arguments: argparse.Namespace) -> None:
    """Look and print."""

    study = read_study(arguments.files)
    try:
        check_prepared_datasets(study)
        problems = [f"changed: {problem}" for problem in changed_originals(study).values()]
    except UserError as error:
        problems = [f"wrong data: {error}"]
    problems += [f"not prepared: {message}" for message in lost_datasets(study).values()]
    for name in study.run.datasets:
        problems += preparation_warnings(study, name)
    for line in problems:
        print(line)
    for line in report(Layout(study, left_out(study))):
        print(line)
