"""Tables: the numbers as a data frame, and the frame as a page."""

from __future__ import annotations

import html
from dataclasses import dataclass

import pandas as pd

from lplgrad.settings import StudyFile
from lplgrad.statistics.curves import CELL, CHAIN, panels, trial_seconds


def accuracy_table(measurements: pd.DataFrame) -> pd.DataFrame:
    """Test accuracy in percent at every budget: columns budget, dataset, labels, strategy, seeds, mean, std.

    ``std`` is the sample standard deviation over seeds (n - 1), NaN for one seed. A trial that stopped at its target
    accuracy counts up to there.
    """
    trained = measurements[~measurements["stopped"].astype(bool)]
    grouped = trained.assign(accuracy=measurements["accuracy"] * 100).groupby([*CELL, "labels"], sort=False)
    table = grouped["accuracy"].agg(seeds="count", mean="mean", std="std").reset_index()
    return table[["budget", "dataset", "labels", "strategy", "seeds", "mean", "std"]]


def time_table(timings: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a round and of a trial: columns budget, dataset, strategy, seeds, train_round, query_round (means
    over the rounds of all seeds that trained, and that queried), trials (whole ones), train_trial, query_trial (means
    over whole trials of their sums; a trial that was stopped is none) and device."""
    # The rounds that a stopped trial repeats take 0 seconds, and so does the query of the last that it trained.
    trained = timings[timings["train_seconds"] > 0]
    last = trained.groupby(CHAIN)["round"].transform("max")
    trained = trained.assign(query_seconds=trained["query_seconds"].where(trained["round"] < last))
    per_round = trained.groupby(CELL, sort=False).agg(
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


@dataclass(frozen=True)
class Section:
    """A table of a page.

    Attributes:
        heading: above it.
        head: cells of its header row.
        rows: cells of its rows, as text.
        best: positions (row, column) to be set in bold.
        text_columns: how many columns from the left are text, and so set flush left.
    """

    heading: str
    head: list[str]
    rows: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    text_columns: int = 1


def accuracy_sections(table: pd.DataFrame, file: StudyFile) -> list[Section]:
    """The accuracy table as people read it: a section per budget and data set, rounds down, strategies across."""
    study = file.study
    sections = []
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
                if round(value, 1) == round(mean.loc[labels].max(), 1):
                    best.add((number, column))
            rows.append([str(labels), *cells])
        heading = f"{dataset_title(file, dataset)}, {budget} budget ({seeds} seed{'s' if seeds > 1 else ''})"
        head = ["labels", *(strategy_title(file, name) for name in strategies)]
        sections.append(Section(heading, head, rows, frozenset(best)))
    return sections


def time_sections(table: pd.DataFrame, file: StudyFile) -> list[Section]:
    """The time table as people read it: a section per budget and data set, strategies down."""
    sections = []
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
        sections.append(Section(heading, head, rows))
    return sections


def _seconds(value: float) -> str:
    if pd.isna(value):
        return "–"
    return f"{value:,.3f}" if value < 1 else f"{value:,.1f}"


def strategy_title(file: StudyFile, name: str) -> str:
    """A strategy's name for people."""
    return file.study.strategies[name].title or name


def dataset_title(file: StudyFile, name: str) -> str:
    """A data set's name for people."""
    return file.study.datasets[name].title or name


def page(title: str, sections: list[Section], note: str, body: str = "") -> str:
    """A page of tables that stands alone: no script, no other file. ``body`` is HTML to stand before the tables."""
    body += "".join(_section(section) for section in sections)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}<p class='note'>{html.escape(note)}</p>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    head = "".join(_cell("th", cell, section, -1, column) for column, cell in enumerate(section.head))
    rows = []
    for number, row in enumerate(section.rows):
        cells = (_cell("td", cell, section, number, column) for column, cell in enumerate(row))
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    return (
        f"<h2>{html.escape(section.heading)}</h2>\n<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>\n</table>\n"
    )


def _cell(tag: str, text: str, section: Section, row: int, column: int) -> str:
    classes = ["text"] * (column < section.text_columns) + ["best"] * ((row, column) in section.best)
    attribute = f" class='{' '.join(classes)}'" if classes else ""
    return f"<{tag}{attribute}>{html.escape(text)}</{tag}>"


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2rem auto; max-width: 70rem;
       padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem; text-align: right; white-space: nowrap; }
.text { text-align: left; }
thead th { border-top: 2px solid #1b1b1b; border-bottom: 1px solid #1b1b1b; font-weight: 600; }
tbody tr:last-child td { border-bottom: 2px solid #1b1b1b; }
tbody tr:nth-child(even) { background: #f4f4f4; }
.best { font-weight: 700; }
.note { color: #555; max-width: 60rem; }
"""
