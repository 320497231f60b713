"""Look beyond accuracy, from the files of all rounds: calibration, what every query chose, how scores rank losses."""

from __future__ import annotations

import argparse
import math
from typing import Any

import pandas as pd

from lplgrad.analysis import diagnostics
from lplgrad.analysis.curves import panels
from lplgrad.analysis.departures import check_settings
from lplgrad.analysis.score_loss import over_seeds, score_loss
from lplgrad.machine.files import write_text
from lplgrad.report.document import Part, crossed, document, paragraphs
from lplgrad.report.wording import count, interval, panel_title, plus_minus, strategy_titles
from lplgrad.rounds.pool import TEST_EXAMPLES
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study_file
from lplgrad.study.settings import StudyFile


def run(arguments: argparse.Namespace) -> None:
    """Read, compute and write."""
    file = read_study_file(arguments.study)
    check_settings(Layout(file.study, file.unavailable))
    correlations = score_loss(file)
    summarised = over_seeds(correlations)
    tables = {
        "calibration": diagnostics.calibration(file),
        "choices": diagnostics.choices(file),
        "overlap": diagnostics.overlap(file),
        "score_loss": correlations,
        "score_loss_summary": summarised,
    }
    for name, table in tables.items():
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    page = document(f"Scores and true loss: {file.study.title}", parts(summarised, file))
    write_text(arguments.output / "score_loss.html", page)


def parts(summarised: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out a table for each budget and data set, strategies down, labels across."""
    datasets = diagnostics.open_datasets(Layout(file.study, file.unavailable))
    found = [Part(text=paragraphs(__file__, "score_loss", empty=summarised.empty))]
    for panel, part in panels(summarised):
        labels = {number: f"{number:,} labels" for number in sorted(set(part["labels"]))}
        seeds = int(part["seeds"].max())
        cells = {(row["strategy"], row["labels"]): _cell(row, seeds) for row in part.to_dict("records")}
        scores = dict(zip(part["strategy"], part["score"], strict=True))
        titles = strategy_titles(file, scores).items()
        rows = crossed(cells, {name: f"{title}\n{scores[name].replace('_', ' ')}" for name, title in titles}, labels)
        examples = len(datasets[panel["dataset"]].splits["test"].labels)
        over = f"Over all {examples:,} test examples."
        if examples > TEST_EXAMPLES:
            over = f"Over {TEST_EXAMPLES:,} of the {examples:,} test examples, drawn anew for every seed."
        head = ("strategy and score", *labels.values())
        found.append(Part(f"{panel_title(file, panel)}, {count(seeds, 'seed')}", (over,), head, rows))
    return found


def _cell(row: dict[Any, Any], seeds: int) -> str:
    fewer = "" if row["seeds"] == seeds else f" (of {row['seeds']})"
    bracket = "" if math.isnan(row["low"]) else f"\n{interval(row['low'], row['high'], 3)}"
    return plus_minus(row["mean"], row["std"], 3) + fewer + bracket
