"""Bring accuracies together: one tidy row a round, and one a class and round, from all metrics.json of a study."""

from __future__ import annotations

import argparse

from lplgrad.analysis import collect
from lplgrad.machine.files import write_text
from lplgrad.study.reading import read_study_file


def run(arguments: argparse.Namespace) -> None:
    """Collect and write."""

    file = read_study_file(arguments.study)
    departed = collect.departures(file, partial=False)
    measurements = collect.measurements(file, departed=departed)
    classes = collect.class_accuracies(file, departed=departed)
    for name, frame in (("measurements", measurements), ("classes", classes)):
        write_text(arguments.output / f"{name}.csv", frame.to_csv(index=False))
