"""Collect the measurements of all rounds of a study: one tidy row a round."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.analysis.departures import Departures, check_settings
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, write_text
from lplgrad.rounds.files import torch_version
from lplgrad.rounds.settings import QUERY, RERUN
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study_file
from lplgrad.study.settings import StudyFile

SECONDS, MACHINE = ("train_seconds", "test_seconds"), ("device", "host", "threads")
Row = dict[str, Any]
ReadRound = Callable[[Trial, int, Path], Row | None]  # the columns of a round, from its folder; None if it is missing


def run(arguments: argparse.Namespace) -> None:
    """Write accuracies: a row for each round, and a row for each class and round."""
    file = read_study_file(arguments.study)
    departed = check_settings(Layout(file.study, file.unavailable))
    tables = {"measurements": measurements(file, False, departed), "classes": class_accuracies(file, False, departed)}
    for name, table in tables.items():
        write_text(arguments.output / f"{name}.csv", table.to_csv(index=False))


def run_timings(arguments: argparse.Namespace) -> None:
    """Write seconds: a row for each round."""
    write_text(arguments.output, timings(read_study_file(arguments.study)).to_csv(index=False))


def measurements(file: StudyFile, partial: bool = False, departed: Departures | None = None) -> pd.DataFrame:
    """Collect the accuracy after every round. The shared round 1 of a recipe appears in the trial of every strategy.

    Args:
        file: the study.
        partial: leave out rounds that are missing or depart from the study; otherwise they are a UserError.
        departed: of ``check_settings``, which takes long in a large study; None to call it now.

    Returns:
        Columns budget, dataset, strategy, recipe, acquisition, seed, round, labels (bought until then), accuracy
        (fraction), train_loss, stopped, torch (the version of PyTorch that trained the round).
    """

    def read(trial: Trial, number: int, folder: Path) -> Row | None:
        metrics = _read(folder / "metrics.json", ["accuracy", "train_loss", "stopped"], partial)
        return metrics and {**metrics, "torch": torch_version(folder)}

    return _collect(file, read, partial, departed)


def class_accuracies(file: StudyFile, partial: bool = False, departed: Departures | None = None) -> pd.DataFrame:
    """Collect the accuracy of every class after every round: columns as above up to labels, then class, accuracy."""

    def read(trial: Trial, number: int, folder: Path) -> Row | None:
        return _read(folder / "metrics.json", ["accuracy_per_class", "stopped"], partial)

    wide = _collect(file, read, partial, departed)
    if wide.empty:
        return wide
    del wide["stopped"]
    wide["class"] = wide["accuracy_per_class"].map(list)
    wide["accuracy"] = wide.pop("accuracy_per_class").map(lambda accuracies: list(accuracies.values()))
    return wide.explode(["class", "accuracy"], ignore_index=True)


def timings(file: StudyFile, partial: bool = False, departed: Departures | None = None) -> pd.DataFrame:
    """Collect what differs from run to run: columns as above up to round, then train_seconds, test_seconds,
    train_peak_memory_mb, query_seconds, query_peak_memory_mb (NaN without a query), device, host, threads, torch."""
    layout = Layout(file.study, file.unavailable)
    departed = check_settings(layout, partial=partial) if departed is None else departed
    others = {departure.file for departure in departed.values()}

    def read(trial: Trial, number: int, folder: Path) -> Row | None:
        train = _read(folder / "timing.json", [*SECONDS, "peak_memory_mb", *MACHINE], partial)
        if train is None:
            return None
        query, path = None, Path(layout.round(trial, number)) / "query_timing.json"
        if number < layout.rounds(trial.budget, trial.dataset) and path.with_name(QUERY) not in others:
            query = _read(path, ["query_seconds", "peak_memory_mb"], partial)
        return {
            **{key: train[key] for key in SECONDS},
            "train_peak_memory_mb": train["peak_memory_mb"],
            "query_seconds": query and query["query_seconds"],
            "query_peak_memory_mb": query and query["peak_memory_mb"],
            **{key: train[key] for key in MACHINE},
            "torch": torch_version(folder),
        }

    return _collect(file, read, partial, departed)


def _collect(file: StudyFile, read: ReadRound, partial: bool, departed: Departures | None) -> pd.DataFrame:
    layout, rows = Layout(file.study, file.unavailable), []
    departed = check_settings(layout, partial=partial) if departed is None else departed
    for trial in layout.trials():
        strategy = file.study.strategies[trial.strategy]
        about = {
            "budget": trial.budget, "dataset": trial.dataset, "strategy": trial.strategy, "recipe": strategy.recipe,
            "acquisition": strategy.acquisition, "seed": trial.seed,
        }  # fmt: skip
        numbers = layout.numbers(trial)
        bought: int | None = None  # of the round that a stopped one repeats; None if that one is missing
        for number in numbers[: departed[trial].round_number - 1] if trial in departed else numbers:
            found = read(trial, number, Path(layout.trained(trial, number)))
            if found is None or not found.get("stopped"):
                bought = None if found is None else layout.bought(trial.budget, trial.dataset, number)
            if found is not None and bought is not None:
                labels = {"labels": bought} if "stopped" in found else {}
                rows.append({**about, "round": number, **labels, **found})
    return pd.DataFrame(rows)


# What the values of a round's files must be, and the same in words.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "threads": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
    "accuracy": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "train_loss": (lambda value: _is_number(value), "a finite number"),
    "stopped": (lambda value: isinstance(value, bool), "true or false"),
    "accuracy_per_class": (
        lambda value: isinstance(value, dict) and all(one is None or _is_number(one) for one in value.values()),
        "an accuracy or null for each class",
    ),
    **dict.fromkeys(("device", "host"), (lambda value: isinstance(value, str), "a name")),
    **dict.fromkeys(
        (*SECONDS, "query_seconds", "peak_memory_mb"),
        (lambda value: _is_number(value) and value >= 0, "a finite number of 0 or more"),
    ),
}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _read(path: Path, keys: list[str], partial: bool) -> Row | None:
    """Read and check some keys of a JSON file. Return None if it is missing and ``partial`` allows that."""
    if not path.exists():
        if partial:
            return None
        hint = "run Snakemake, or report what is finished: lplgrad report --partial"
        raise UserError(f"{path}: missing: the study is not finished; {hint}")
    values = read_json(path)
    for key in keys:
        is_sound, expected = _CHECKS[key]
        if key not in values:
            raise UserError(f"{path}: {key!r} is missing; {RERUN}")
        if not is_sound(values[key]):
            raise UserError(f"{path}: {key} must be {expected}; {RERUN}")
    return {key: values[key] for key in keys}
