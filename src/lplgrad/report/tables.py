"""Tables: numbers as .csv, and a page to read as .html."""

from __future__ import annotations

import argparse
from typing import NamedTuple

import pandas as pd

from lplgrad.analysis.curves import CELL, curves, panels, trial_seconds
from lplgrad.analysis.measured import mixed_versions
from lplgrad.machine.files import write_text
from lplgrad.report.document import Part, check_endings, crossed, document, paragraphs, strong_if
from lplgrad.report.kinds import function_of, inputs_of
from lplgrad.report.wording import DASH, count, has_target, panel_title, plus_minus, strategy_title, strategy_titles
from lplgrad.study.settings import StudyFile


class Table(NamedTuple):
    """The numbers of a table; and the heading of its page, its parts and the paragraphs below them."""

    frame: pd.DataFrame
    heading: str
    parts: list[Part]
    note: tuple[str, ...]


def run(arguments: argparse.Namespace) -> None:
    """Make a table of the kind that is named, and write it."""
    check_endings(arguments.output, (".csv", ".html"))
    inputs = inputs_of(arguments)
    table: Table = function_of(arguments)(**inputs)
    file = inputs["file"]
    cautions = [mixed_versions(inputs[name]) for name in ("measurements", "timings") if name in inputs]
    missing = (f"{name} is missing: {reason}." for name, reason in file.unavailable.items())
    parts = [Part(text=cautions), *table.parts, Part(text=(*table.note, *missing))]
    for path in arguments.output:
        if path.suffix == ".csv":
            write_text(path, table.frame.to_csv(index=False, float_format="%.6g"))
        else:
            write_text(path, document(f"{table.heading}: {file.study.title}", parts))


def accuracy(file: StudyFile, measurements: pd.DataFrame) -> Table:
    """Make the table of test accuracy, the paper's Table III."""
    table, note = accuracy_table(measurements), paragraphs(__file__, "accuracy", target=has_target(file.study))
    return Table(table, "Test accuracy (%)", accuracy_parts(table, file), note)


def time(file: StudyFile, timings: pd.DataFrame) -> Table:
    """Make the table of seconds, the paper's Table IV."""
    table, note = time_table(timings), paragraphs(__file__, "time", target=has_target(file.study))
    return Table(table, "Time", time_parts(table, file), note)


def accuracy_table(measurements: pd.DataFrame) -> pd.DataFrame:
    """Average the test accuracy of every round: columns budget, dataset, labels, strategy, seeds, mean, std.

    In percent. ``std`` is the sample standard deviation over seeds (n - 1), NaN for one seed. A trial that stopped at
    its target accuracy counts up to there.
    """
    grouped = curves(measurements).groupby([*CELL, "labels"], sort=False)
    table = grouped["accuracy"].agg(seeds="count", mean="mean", std="std").reset_index()
    return table[["budget", "dataset", "labels", "strategy", "seeds", "mean", "std"]]


def time_table(timings: pd.DataFrame) -> pd.DataFrame:
    """Average the seconds of a round and of a trial.

    Returns:
        Columns budget, dataset, strategy, seeds, train_round, query_round (means over the rounds of all seeds that
        trained, and that queried), trials (complete ones), train_trial, query_trial (means over complete trials of
        their sums; a trial that was stopped is not complete) and device.
    """
    means = {"train": ("train_seconds", "mean"), "query": ("query_seconds", "mean")}
    table = timings.groupby(CELL, sort=False).agg(seeds=("seed", "nunique"), **means)
    trials = trial_seconds(timings).groupby(CELL, sort=False).agg(trials=("seed", "count"), **means)
    table = table.merge(trials, "left", left_index=True, right_index=True, suffixes=("_round", "_trial"))
    table = table.fillna({"trials": 0}).astype({"trials": int})
    devices = timings.groupby(CELL, sort=False)["device"].agg(
        lambda names: "; ".join(sorted(set("; ".join(names).split("; "))))  # a resumed training may name several
    )
    return table.assign(device=devices).reset_index()


def accuracy_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out a section per budget and data set, rounds down, strategies across."""
    parts = []
    for panel, part in panels(table):
        seeds = int(part["seeds"].max())
        titles = strategy_titles(file, part["strategy"])
        best = part.groupby("labels")["mean"].max().to_dict()
        cells = {}
        for row in part.to_dict("records"):
            shown = plus_minus(row["mean"], row["std"], 1) + ("" if row["seeds"] == seeds else f" (of {row['seeds']})")
            is_best = round(row["mean"], 1) == round(best[row["labels"]], 1)
            cells[row["labels"], row["strategy"]] = strong_if(is_best and len(titles) > 1, shown)
        rows = crossed(cells, {labels: str(labels) for labels in sorted(set(part["labels"]))}, titles)
        heading = f"{panel_title(file, panel)} ({count(seeds, 'seed')})"
        parts.append(Part(heading, head=("labels", *titles.values()), rows=rows))
    return parts


def time_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """Lay out a section per budget and data set, strategies down."""
    head = ["seconds", "training, a round", "query, a round", "training, a trial", "query, a trial"]
    parts = []
    for panel, part in panels(table):
        rows = []
        for row in part.to_dict("records"):
            of = "" if row["trials"] in (0, row["seeds"]) else f" (of {row['trials']})"
            trial = [_seconds(row[key]) + of for key in ("train_trial", "query_trial")]
            rounds = [_seconds(row[key]) for key in ("train_round", "query_round")]
            rows.append([strategy_title(file, row["strategy"]), *rounds, *trial])
        heading = f"{panel_title(file, panel)}, on {'; '.join(sorted(set(part['device'])))}"
        parts.append(Part(heading, head=head, rows=rows))
    return parts


def _seconds(value: float) -> str:
    if pd.isna(value):
        return DASH
    return f"{value:,.3f}" if value < 1 else f"{value:,.1f}"
