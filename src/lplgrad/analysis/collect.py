"""Bring the measurements of all rounds of a study together, one tidy row a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.rounds.settings import QUERY, RERUN, Difference, check_settings, differences, torch_version
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.settings import StudyFile

Row = dict[str, Any]


Departed = Mapping[Trial, Difference]


def departures(file: StudyFile, partial: bool) -> Departed:
    """Where trials were run with other settings than the study's.

    Args:
        file: the study.
        partial: leave out rounds of other settings; otherwise they are an error.

    Raises:
        UserError: there is such a round, and ``partial`` is False.
    """
    layout = Layout(file.study, file.unavailable)
    if partial:
        return differences(layout)
    check_settings(layout)
    return {}


def measurements(file: StudyFile, partial: bool = False, departed: Departed | None = None) -> pd.DataFrame:
    """Accuracy after every round: the same bytes on every run of the study on the same machine.

    Args:
        file: the study.
        partial: leave out rounds that are missing or were run with other settings; otherwise they are an error.
        departed: the ``departures``, which take long to find in a large study; None to find them now.

    Returns:
        Columns budget, dataset, strategy, recipe, acquisition, seed, round, labels, accuracy (fraction), train_loss,
        stopped, torch (the version of PyTorch that trained the round). Round 1 is trained once per recipe and appears
        in the trial of every strategy of that recipe.

    Raises:
        UserError: a round is missing or was run with other settings than the study's, and ``partial`` is False.
    """

    def row(trial: Trial, number: int, folder: str) -> Row | None:
        metrics = _read(Path(folder) / "metrics.json", ["labels", "accuracy", "train_loss", "stopped"], partial)
        return metrics and {"round": number, **metrics, "torch": torch_version(Path(folder))}

    return _collect(file, row, partial, departed)


def class_accuracies(file: StudyFile, partial: bool = False, departed: Departed | None = None) -> pd.DataFrame:
    """Accuracy of every class after every round: columns as above up to labels, then class and accuracy."""

    def rows(trial: Trial, number: int, folder: str) -> Row | None:
        metrics = _read(Path(folder) / "metrics.json", ["labels", "accuracy_per_class"], partial)
        return metrics and {"round": number, **metrics}

    wide = _collect(file, rows, partial, departed)
    if wide.empty:
        return wide
    wide["class"] = wide["accuracy_per_class"].map(list)
    wide["accuracy"] = wide.pop("accuracy_per_class").map(lambda accuracies: list(accuracies.values()))
    return wide.explode(["class", "accuracy"], ignore_index=True)


def timings(file: StudyFile, partial: bool = False, departed: Departed | None = None) -> pd.DataFrame:
    """Seconds and memory of every round, and the machine: what is not the same on every run.

    Returns:
        Columns budget, dataset, strategy, recipe, acquisition, seed, round, train_seconds, test_seconds,
        train_peak_memory_mb, query_seconds, query_peak_memory_mb (both NaN in the last round, which has no query),
        device, host, threads, torch.
    """
    layout = Layout(file.study, file.unavailable)
    departed = departures(file, partial) if departed is None else departed
    others = {difference.file for difference in departed.values()}

    def row(trial: Trial, number: int, folder: str) -> Row | None:
        wanted = ["train_seconds", "test_seconds", "peak_memory_mb", "device", "host", "threads"]
        train = _read(Path(folder) / "timing.json", wanted, partial)
        if train is None:
            return None
        query: Row | None = {}
        if number < layout.rounds(trial.budget, trial.dataset):
            path = Path(layout.round(trial, number)) / "query_timing.json"
            if path.with_name(QUERY) not in others:
                query = _read(path, ["query_seconds", "peak_memory_mb"], partial)
        return {
            "round": number,
            "train_seconds": train["train_seconds"],
            "test_seconds": train["test_seconds"],
            "train_peak_memory_mb": train["peak_memory_mb"],
            "query_seconds": (query or {}).get("query_seconds"),
            "query_peak_memory_mb": (query or {}).get("peak_memory_mb"),
            **{key: train[key] for key in ("device", "host", "threads")},
            "torch": torch_version(Path(folder)),
        }

    return _collect(file, row, partial, departed)


def _collect(
    file: StudyFile, row: Callable[[Trial, int, str], Row | None], partial: bool, departed: Departed | None
) -> pd.DataFrame:
    return pd.DataFrame(_rows(file, row, departures(file, partial) if departed is None else departed))


def _rows(file: StudyFile, row: Callable[[Trial, int, str], Row | None], departed: Departed) -> Iterator[Row]:
    layout = Layout(file.study, file.unavailable)
    for trial in layout.trials():
        strategy = file.study.strategies[trial.strategy]
        about = {
            "budget": trial.budget,
            "dataset": trial.dataset,
            "strategy": trial.strategy,
            "recipe": strategy.recipe,
            "acquisition": strategy.acquisition,
            "seed": trial.seed,
        }
        last = layout.rounds(trial.budget, trial.dataset)
        if trial in departed:
            last = departed[trial].round_number - 1
        for number in range(1, last + 1):
            found = row(trial, number, layout.trained(trial, number))
            if found is not None:
                yield {**about, **found}


# What the values of a round's files must be, and the same in words.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "labels": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
    "accuracy": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "train_loss": (lambda value: _is_number(value), "a finite number"),
    "stopped": (lambda value: isinstance(value, bool), "true or false"),
    "accuracy_per_class": (
        lambda value: isinstance(value, dict) and all(one is None or _is_number(one) for one in value.values()),
        "an accuracy or null for each class",
    ),
    "device": (lambda value: isinstance(value, str), "a name"),
    "host": (lambda value: isinstance(value, str), "a name"),
    "threads": (lambda value: type(value) is int and value > 0, "a whole number above 0"),
    **dict.fromkeys(
        ("train_seconds", "test_seconds", "query_seconds", "peak_memory_mb"),
        (lambda value: _is_number(value) and value >= 0, "a finite number of 0 or more"),
    ),
}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _read(path: Path, keys: list[str], partial: bool) -> Row | None:
    """Some keys of a JSON file."""
    if not path.exists():
        if partial:
            return None
        raise UserError(
            f"{path}: missing: the study is not finished; run Snakemake, or add --partial to report what is finished"
        )
    values = read_json(path)
    for key in keys:
        is_sound, expected = _CHECKS[key]
        if key not in values:
            raise UserError(f"{path}: {key!r} is missing; {RERUN}")
        if not is_sound(values[key]):
            raise UserError(f"{path}: {key} must be {expected}; {RERUN}")
    return {key: values[key] for key in keys}
