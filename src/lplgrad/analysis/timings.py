"""Bring seconds together: one tidy row a round, from all timing.json and query_timing.json of a study."""

from __future__ import annotations

import argparse

from lplgrad.analysis import collect
from lplgrad.machine.files import write_text
from lplgrad.study.reading import read_study_file


def run(arguments: argparse.Namespace) -> None:
    """Collect and write."""

    write_text(arguments.output, collect.timings(read_study_file(arguments.study)).to_csv(index=False))
