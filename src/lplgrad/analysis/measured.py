"""Read the tables of a study. A table that was cut off is refused, because the study says which rows it has."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import astuple
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from lplgrad.analysis.curves import TRIAL
from lplgrad.analysis.round_files import AGAIN, FINITE
from lplgrad.analysis.trained import trained
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds.files import VERSION as VERSION_PATTERN
from lplgrad.rounds.files import read_text
from lplgrad.study.layout import Layout
from lplgrad.study.settings import StudyFile

TOGETHER = "delete it and calibration.csv, with which it must agree, and run again"
WHERE = ("budget", "dataset", "strategy", "baseline", "recipe", "acquisition", "seed", "round", "labels")
CONVERT: dict[str, Callable[[str], Any]] = {
    "text": str,
    "whole": int,
    "number": lambda cell: float(cell) if cell else math.nan,
    "flag": lambda cell: cell == "True",
}


class Kind(NamedTuple):
    """What the cells of a column may be: a regular expression, the same in words, and a key of ``CONVERT``."""

    pattern: str
    words: str
    convert: str = "number"

    def or_empty(self) -> Kind:
        """The same, where a cell may be empty too."""
        return self._replace(pattern=f"(?:{self.pattern})?", words=f"{self.words}, or empty")


AMOUNT_PATTERN = r"[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?"
FRACTION_PATTERN = r"(?:0(?:\.[0-9]+)?|1(?:\.0)?|[0-9](?:\.[0-9]+)?e-[0-9]+)"
TEXT = Kind("(?s:.*)", "text", "text")
WHOLE = Kind("[0-9]{1,18}", "a whole number", "whole")
FLAG = Kind("True|False", "True or False", "flag")
NUMBER = Kind(FINITE, "a finite number")
AMOUNT = Kind(rf"{AMOUNT_PATTERN}|-0", "a finite number of 0 or more")  # a loss of 0 may be written with a sign
VERSION = Kind(VERSION_PATTERN, "a version", "text")
FRACTION = Kind(FRACTION_PATTERN, "a number from 0 to 1")
CORRELATION = Kind(f"-?{FRACTION_PATTERN}", "a number from -1 to 1")

STRATEGY = dict.fromkeys(("budget", "dataset", "strategy"), TEXT)
POINT = dict.fromkeys(("seed", "round", "labels"), WHOLE)
ROUND = {**STRATEGY, "recipe": TEXT, "acquisition": TEXT, "seed": WHOLE, "round": WHOLE}
MEASUREMENTS = {**ROUND, "labels": WHOLE, "accuracy": FRACTION, "train_loss": NUMBER, "stopped": FLAG, "torch": VERSION}
CLASSES = {**ROUND, "labels": WHOLE, "class": TEXT, "accuracy": FRACTION.or_empty()}
TIMINGS = {
    **ROUND, **dict.fromkeys(("train_seconds", "test_seconds", "train_peak_memory_mb"), AMOUNT),
    **dict.fromkeys(("query_seconds", "query_peak_memory_mb"), AMOUNT.or_empty()),
    "device": TEXT, "host": TEXT, "threads": WHOLE, "torch": VERSION,
}  # fmt: skip
PLACE = {**STRATEGY, **POINT}
CALIBRATION = {
    **PLACE, "calibration_error": FRACTION, "negative_log_likelihood": AMOUNT, "confidence": FRACTION,
    "entropy_loss_correlation": CORRELATION.or_empty(),
}  # fmt: skip
CHOICES = {
    **PLACE, "balance": FRACTION.or_empty(), "balance_labeled": FRACTION, "spread": AMOUNT.or_empty(),
    "error_ranking": FRACTION.or_empty(), "score_entropy_correlation": CORRELATION.or_empty(),
}  # fmt: skip
PAIR = {**STRATEGY, "baseline": TEXT, **POINT}
OVERLAP = {**PAIR, "jaccard": FRACTION}


def mixed_versions(frame: pd.DataFrame) -> str:
    """Return a warning for pages if several versions of PyTorch trained the rounds of a table, else ""."""
    counts = frame["torch"].value_counts().sort_index()
    if len(counts) < 2:
        return ""
    listed = ", ".join(f"{count} with {version}" for version, count in counts.items())
    return (
        f"Caution: different versions of PyTorch trained these rounds ({listed}). Versions differ in rounding, so part "
        "of a difference may come from them."
    )


def read_measurements(path: Path, file: StudyFile, partial: bool = False) -> pd.DataFrame:
    """Read the rounds of ``measurements.csv`` that were trained; with ``partial``, rounds may be missing.

    Returns:
        The columns of ``collect.measurements``, with repeats (see ``trained``) instead of stopped.

    Raises:
        UserError: the table is not complete or not of this study, or its cells contradict each other.
    """
    frame = _read(path, MEASUREMENTS)
    _check_rounds(frame, path, file, partial)
    _check_labels(frame, path, file)
    return trained(frame.drop(columns="stopped"), frame["stopped"])


def read_timings(path: Path, file: StudyFile, partial: bool = False) -> pd.DataFrame:
    """Read the rounds of ``timings.csv`` that were trained, as ``read_measurements`` does.

    The column query_seconds is NaN in the last round that a trial trained, and where a query is not done yet.
    """
    frame = _read(path, TIMINGS)
    _check_rounds(frame, path, file, partial)
    layout = Layout(file.study, file.unavailable)
    last = frame["round"] == _of_panel(frame, layout.rounds)
    queried = frame[["query_seconds", "query_peak_memory_mb"]].notna()
    some, all_ = queried.any(axis=1), queried.all(axis=1)
    wrong = (some & last) | (some != all_) | (~all_ & ~last & (not partial))
    _refuse(
        frame[wrong], path, "query_seconds and query_peak_memory_mb must be empty in the last round, and only there"
    )
    found = trained(frame, frame["train_seconds"] == 0)
    return found.assign(query_seconds=found["query_seconds"].where(found["repeats"] == 0))


def read_classes(path: Path, file: StudyFile, partial: bool = False) -> pd.DataFrame:
    """Read all rounds of ``classes.csv``. The accuracy of a class without test examples is NaN."""
    frame = _read(path, CLASSES)
    rounds = frame.drop_duplicates(list(ROUND))
    _check_rounds(rounds, path, file, partial)
    _check_labels(rounds, path, file)
    layout = Layout(file.study, file.unavailable)
    for dataset, part in frame.groupby("dataset", sort=False):
        manifest = Path(layout.data(str(dataset))) / "dataset.json"
        known = read_json(manifest).get("classes") if manifest.exists() else None
        _check_classes(part, path, f"its classes are not those of {dataset}", known)
    return frame


def _check_classes(part: pd.DataFrame, path: Path, problem: str, known: list[str] | None) -> None:
    """Check that every round names the classes ``known`` in their order, and lacks the accuracies of the same ones."""
    first = (part[list(ROUND)] == part[list(ROUND)].iloc[0]).all(axis=1)
    names, empty = part["class"][first].tolist(), part["accuracy"][first].isna().tolist()
    if len(set(names)) < len(names) or names != (known or names):
        _refuse(part, path, problem)
    found = part[[*ROUND, "class"]].assign(accuracy=part["accuracy"].isna()).reset_index(drop=True)
    rounds, rest = divmod(len(found), len(names))
    if rest:
        _refuse(part.tail(1), path, problem)
    expected = found.iloc[np.repeat(np.arange(rounds) * len(names), len(names))].reset_index(drop=True)
    expected = expected.assign(**{"class": names * rounds, "accuracy": empty * rounds})
    _refuse(part[(found != expected).any(axis=1).to_numpy()], path, problem)


def read_diagnostics(folder: Path, file: StudyFile) -> dict[str, pd.DataFrame]:
    """Read the tables that ``lplgrad diagnostics`` wrote, by the names of the functions that make them.

    A trial that stopped has fewer rows. The tables are compared with each other, so that one that was cut off does not
    look like one of such trials. Raise UserError if a table is not complete or not of this study.
    """
    layout = Layout(file.study, file.unavailable)
    kinds = {"calibration": CALIBRATION, "choices": CHOICES, "overlap": OVERLAP}
    tables = {name: _read(folder / f"{name}.csv", columns) for name, columns in kinds.items()}
    wanted: dict[str, list[tuple[Any, ...]]] = {name: [] for name in kinds}
    last, pairs = tables["calibration"].groupby(TRIAL)["round"].max(), dict[Any, dict[str, int]]()
    for trial in layout.trials():
        key, budget = astuple(trial), layout.budget(trial.budget, trial.dataset)
        rounds = budget.rounds
        if budget.target_accuracy is not None:
            rounds = min(int(last.get(key, 1)), rounds)
        wanted["calibration"] += [(*key, number, budget.bought(number)) for number in range(1, rounds + 1)]
        wanted["choices"] += [(*key, number, budget.bought(number + 1)) for number in range(1, rounds)]
        pairs.setdefault((trial.budget, trial.dataset, trial.seed), {})[trial.strategy] = rounds
    for (name, dataset, seed), rounds_of in pairs.items():
        for one, other in combinations(rounds_of, 2):
            numbers = range(1, min(rounds_of[one], rounds_of[other]))
            bought = [layout.bought(name, dataset, number + 1) for number in numbers]
            points = zip(numbers, bought, strict=True)
            wanted["overlap"] += [(name, dataset, one, other, seed, *point) for point in points]
    for name, table in tables.items():
        columns, hint = (PAIR if name == "overlap" else PLACE), (AGAIN if name == "calibration" else TOGETHER)
        _check_rows(table, list(columns), wanted[name], folder / f"{name}.csv", hint)
    return tables


def _read(path: Path, kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Read a table with just these columns, and check that each cell is of its column's kind."""
    reader = csv.reader(io.StringIO(read_text(path, list(kinds)), newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num + 1}: {error}; {AGAIN}") from None
    for number, row in enumerate(rows, start=1):
        if len(row) != len(kinds):
            raise UserError(f"{path}: row {number} has {len(row)} cells, not {len(kinds)}; {AGAIN}")
    columns: dict[str, Any] = dict(zip(kinds, zip(*rows, strict=True) if rows else [()] * len(kinds), strict=True))
    for name, kind in kinds.items():
        wrong = {cell for cell in set(columns[name]) if not re.fullmatch(kind.pattern, cell)}
        for number, cell in enumerate(columns[name] if wrong else (), start=1):
            if cell in wrong:
                raise UserError(f"{path}: row {number}: {name} must be {kind.words}, not {cell!r}; {AGAIN}")
    return pd.DataFrame({name: list(map(CONVERT[kind.convert], columns[name])) for name, kind in kinds.items()})


def _check_rounds(frame: pd.DataFrame, path: Path, file: StudyFile, partial: bool) -> None:
    """Check that there is a row for every round of the study; with ``partial``, for one at least."""
    layout, strategies = Layout(file.study, file.unavailable), file.study.strategies
    wanted = [
        (one.budget, one.dataset, one.strategy, row.recipe, row.acquisition, one.seed, number)
        for one, row in ((trial, strategies[trial.strategy]) for trial in layout.trials())
        for number in layout.numbers(one)
    ]
    if partial and frame.empty:
        raise UserError(f"{path}: no rounds in it; {AGAIN}")
    _check_rows(frame, list(ROUND), wanted, path, AGAIN, partial)


def _check_rows(
    frame: pd.DataFrame, columns: list[str], wanted: list[Any], path: Path, hint: str, partial: bool | None = None
) -> None:
    """Check that some columns have the wanted rows, each once and in any order. With ``partial`` rows may be missing;
    None is for tables that are never partial."""
    found = list(zip(*(frame[name].tolist() for name in columns), strict=True))
    known, there = set(wanted), set(found)
    _refuse(frame[frame.duplicated(columns)], path, "this row is in it twice")
    strange = np.array([row not in known for row in found], dtype=bool)
    _refuse(frame[strange], path, "the study has no such row", hint)
    missing = [] if partial else [row for row in wanted if row not in there]
    problem = f"{len(missing)} of {len(wanted)} rows are missing, this one first"
    hint += ", or give --partial if the study is not finished" if partial is not None else ""
    _refuse(pd.DataFrame(missing, columns=columns), path, problem, hint)


def _check_labels(frame: pd.DataFrame, path: Path, file: StudyFile) -> None:
    """Check that rounds add labels as the budget says until the trial reaches its target accuracy, and then none."""
    layout = Layout(file.study, file.unavailable)
    rows = zip(frame["budget"], frame["dataset"], frame["round"], strict=True)
    full = np.array([layout.bought(*row) for row in rows])
    target = _of_panel(frame, lambda *panel: layout.budget(*panel).target_accuracy or math.inf)
    end = frame.groupby(TRIAL)["labels"].transform("max")
    stopped = frame["labels"] < full
    wrong = (frame["labels"] != np.minimum(full, end)) | (stopped & np.isinf(target))
    if "stopped" in frame:
        ends = frame.assign(accuracy=frame["accuracy"].where((frame["labels"] == end) & ~stopped))
        at_end = ends.groupby(TRIAL)["accuracy"].transform("max").fillna(frame["accuracy"])
        reached = frame["accuracy"] >= target
        wrong |= (frame["stopped"] != stopped) | (reached & (frame["labels"] < end))
        wrong |= stopped & (~reached | (frame["accuracy"] != at_end))
    _refuse(frame[wrong], path, "labels, accuracy and stopped contradict the budget")


def _of_panel(frame: pd.DataFrame, value: Callable[[str, str], float]) -> npt.NDArray[Any]:
    """Return a value that belongs to the budget and data set of each row, shape (rows,)."""
    return np.array([value(*panel) for panel in zip(frame["budget"], frame["dataset"], strict=True)])


def _refuse(rows: pd.DataFrame, path: Path, problem: str, hint: str = AGAIN) -> None:
    """Refuse a table for the first of some rows that have a problem, if there are any."""
    for row in rows.head(1).to_dict("records"):
        where = ", ".join(f"{name} {row[name]}" for name in WHERE if name in row)
        raise UserError(f"{path}: {where}: {problem}; {hint}")
