"""Compare strategies by their measurements: tables of every statistic as .csv, and a page to read."""

from __future__ import annotations

import argparse

from lplgrad.analysis.measured import mixed_versions, read_measurements
from lplgrad.machine.files import write_text
from lplgrad.report.document import Part, document
from lplgrad.report.statistics_page import parts, statistics
from lplgrad.study.reading import read_study_file


def run(arguments: argparse.Namespace) -> None:
    """Compute and write."""

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
