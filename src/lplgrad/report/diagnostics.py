"""Look beyond accuracy, from the files of all rounds: calibration, what every query chose, how scores rank losses."""

from __future__ import annotations

import argparse

from lplgrad.analysis import diagnostics
from lplgrad.analysis.departures import check_settings
from lplgrad.machine.files import write_text
from lplgrad.report import score_loss
from lplgrad.report.document import document
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study_file


def run(arguments: argparse.Namespace) -> None:
    """Read, compute and write."""

    file = read_study_file(arguments.study)
    check_settings(Layout(file.study, file.unavailable))
    correlations = score_loss.score_loss(file)
    summarised = score_loss.over_seeds(correlations)
    tables = {
        "calibration": diagnostics.calibration(file),
        "choices": diagnostics.choices(file),
        "overlap": diagnostics.overlap(file),
        "score_loss": correlations,
        "score_loss_summary": summarised,
    }
    for name, table in tables.items():
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    page = document(f"Scores and true loss: {file.study.title}", score_loss.parts(summarised, file))
    write_text(arguments.output / "score_loss.html", page)
