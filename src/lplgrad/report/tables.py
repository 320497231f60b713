"""Tables: the numbers as a data frame, and the frame as a page."""

from __future__ import annotations

import pandas as pd

from lplgrad.analysis.curves import CELL, curves, panels, trial_seconds
from lplgrad.report.document import Part
from lplgrad.study.settings import StudyFile, shown_title


def accuracy_table(measurements: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent at every budget: columns budget, dataset, labels, strategy, seeds, mean, std.

    ``std`` is the sample standard deviation over seeds (n - 1), NaN for one seed. A trial that stopped at its target
    accuracy counts up to there.
    """
    grouped = curves(measurements).groupby([*CELL, "labels"], sort=False)
    table = grouped["accuracy"].agg(seeds="count", mean="mean", std="std").reset_index()
    return table[["budget", "dataset", "labels", "strategy", "seeds", "mean", "std"]]


def time_table(timings: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a round and of a trial: columns budget, dataset, strategy, seeds, train_round, query_round (means
    over the rounds of all seeds that trained, and that queried), trials (whole ones), train_trial, query_trial (means
    over whole trials of their sums; a trial that was stopped is none) and device."""
    per_round = timings.groupby(CELL, sort=False).agg(
        seeds=("seed", "nunique"),
        train_round=("train_seconds", "mean"),
        query_round=("query_seconds", "mean"),
        device=("device", lambda devices: "; ".join(sorted(set(devices)))),
    )
    per_trial = (
        trial_seconds(timings)
        .groupby(CELL, sort=False)
        .agg(trials=("seed", "count"), train_trial=("train_seconds", "mean"), query_trial=("query_seconds", "mean"))
    )
    table = per_round.join(per_trial).fillna({"trials": 0}).astype({"trials": int})
    columns = ["seeds", "train_round", "query_round", "trials", "train_trial", "query_trial", "device"]
    return table[columns].reset_index()


def accuracy_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """The accuracy table as people read it: a section per budget and data set, rounds down, strategies across."""
    study = file.study
    parts = []
    for key, part in panels(table):
        budget, dataset = key.values()
        mean = part.pivot(index="labels", columns="strategy", values="mean")
        std = part.pivot(index="labels", columns="strategy", values="std")
        strategies = [name for name in study.run.strategies if name in mean]
        count = part.pivot(index="labels", columns="strategy", values="seeds")
        seeds = part["seeds"].max()
        rows, best = [], set()
        for number, labels in enumerate(mean.index):
            cells = []
            for column, strategy in enumerate(strategies, start=1):
                value, spread = mean.loc[labels, strategy], std.loc[labels, strategy]
                if pd.isna(value):
                    cells.append("–")
                    continue
                of = "" if count.loc[labels, strategy] == seeds else f" (of {count.loc[labels, strategy]:.0f})"
                cells.append(f"{value:.1f}" + ("" if pd.isna(spread) else f" ± {spread:.1f}") + of)
                if len(strategies) > 1 and round(value, 1) == round(mean.loc[labels].max(), 1):
                    best.add((number, column))
            rows.append([str(labels), *cells])
        heading = f"{dataset_title(file, dataset)}, {budget} budget ({seeds} seed{'s' if seeds > 1 else ''})"
        head = ["labels", *(strategy_title(file, name) for name in strategies)]
        parts.append(Part(heading, head=head, rows=rows, strong=frozenset(best)))
    return parts


def time_parts(table: pd.DataFrame, file: StudyFile) -> list[Part]:
    """The time table as people read it: a section per budget and data set, strategies down."""
    parts = []
    for panel, part in panels(table):
        budget, dataset = panel.values()
        rows = []
        for row in part.to_dict("records"):
            of = "" if row["trials"] in (0, row["seeds"]) else f" (of {row['trials']})"
            trial = [_seconds(row[key]) + of for key in ("train_trial", "query_trial")]
            rounds = [_seconds(row[key]) for key in ("train_round", "query_round")]
            rows.append([strategy_title(file, row["strategy"]), *rounds, *trial])
        heading = f"{dataset_title(file, dataset)}, {budget} budget, on {'; '.join(sorted(set(part['device'])))}"
        head = ["seconds", "training, a round", "query, a round", "training, a trial", "query, a trial"]
        parts.append(Part(heading, head=head, rows=rows))
    return parts


def _seconds(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:,.3f}" if value < 1 else f"{value:,.1f}"


def strategy_title(file: StudyFile, name: str) -> str:
    """A strategy's name for people."""
    return shown_title(file.study.strategies, name)


def strategy_titles(file: StudyFile) -> dict[str, str]:
    """What the strategies that run are called, by their names."""
    return {name: strategy_title(file, name) for name in file.study.run.strategies}


def dataset_title(file: StudyFile, name: str) -> str:
    """A data set's name for people."""
    return shown_title(file.study.datasets, name)
