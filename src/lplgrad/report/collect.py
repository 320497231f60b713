"""Bring the measurements of all rounds of a study together, one tidy row a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lplgrad.errors import UserError
from lplgrad.files import read_json
from lplgrad.round_settings import QUERY, differences, torch_version
from lplgrad.settings import StudyFile
from lplgrad.study import Chain, Layout

Row = dict[str, Any]


def measurements(file: StudyFile, partial: bool = False) -> pd.DataFrame:
    """Accuracy after every round: the same bytes on every run of the study on the same machine.

    Args:
        file: the study.
        partial: leave out rounds that are missing or were run with other settings; otherwise they are an error.

    Returns:
        Columns budget, dataset, strategy, recipe, acquisition, seed, round, labels, accuracy (fraction), train_loss,
        stopped, torch (the version of PyTorch that trained the round). Round 1 is trained once per recipe and appears
        in the trial of every strategy of that recipe.

    Raises:
        UserError: a round is missing or was run with other settings than the study's, and ``partial`` is False.
    """

    def row(chain: Chain, number: int, folder: str) -> Row | None:
        metrics = _read(Path(folder) / "metrics.json", ["labels", "accuracy", "train_loss", "stopped"], partial)
        return metrics and {"round": number, **metrics, "torch": torch_version(Path(folder))}

    return _collect(file, row, partial)


def class_accuracies(file: StudyFile, partial: bool = False) -> pd.DataFrame:
    """Accuracy of every class after every round: columns as above up to labels, then class and accuracy."""

    def rows(chain: Chain, number: int, folder: str) -> Row | None:
        metrics = _read(Path(folder) / "metrics.json", ["labels", "accuracy_per_class"], partial)
        return metrics and {"round": number, **metrics}

    wide = _collect(file, rows, partial)
    if wide.empty:
        return wide
    wide["class"] = wide["accuracy_per_class"].map(list)
    wide["accuracy"] = wide.pop("accuracy_per_class").map(lambda accuracies: list(accuracies.values()))
    return wide.explode(["class", "accuracy"], ignore_index=True)


def timings(file: StudyFile, partial: bool = False) -> pd.DataFrame:
    """Seconds and memory of every round, and the machine: what is not the same on every run.

    Returns:
        Columns budget, dataset, strategy, recipe, acquisition, seed, round, train_seconds, test_seconds,
        train_peak_memory_mb, query_seconds, query_peak_memory_mb (both NaN in the last round, which has no query),
        device, host, threads, torch.
    """
    layout = Layout(file.study, file.unavailable)
    departed = {difference.file for difference in differences(layout).values()}

    def row(chain: Chain, number: int, folder: str) -> Row | None:
        wanted = ["train_seconds", "test_seconds", "peak_memory_mb", "device", "host", "threads", "versions"]
        train = _read(Path(folder) / "timing.json", wanted, partial)
        if train is None:
            return None
        query: Row | None = {}
        if number < layout.rounds(chain.budget, chain.dataset):
            path = Path(layout.round(chain, number)) / "query_timing.json"
            if path.with_name(QUERY) not in departed:
                query = _read(path, ["query_seconds", "peak_memory_mb"], partial)
        return {
            "round": number,
            "train_seconds": train["train_seconds"],
            "test_seconds": train["test_seconds"],
            "train_peak_memory_mb": train["peak_memory_mb"],
            "query_seconds": (query or {}).get("query_seconds"),
            "query_peak_memory_mb": (query or {}).get("peak_memory_mb"),
            **{key: train[key] for key in ("device", "host", "threads")},
            "torch": train["versions"]["torch"],
        }

    return _collect(file, row, partial)


def _collect(file: StudyFile, row: Callable[[Chain, int, str], Row | None], partial: bool) -> pd.DataFrame:
    return pd.DataFrame(_rows(file, row, partial))


def _rows(file: StudyFile, row: Callable[[Chain, int, str], Row | None], partial: bool) -> Iterator[Row]:
    layout = Layout(file.study, file.unavailable)
    departed = differences(layout)
    if departed and not partial:
        first = next(iter(departed.values()))
        raise UserError(
            f"{first.file}: {first.problem}; run Snakemake, which runs the round again, or name the configuration that "
            "it was run with"
        )
    for chain in layout.chains():
        strategy = file.study.strategies[chain.strategy]
        about = {
            "budget": chain.budget,
            "dataset": chain.dataset,
            "strategy": chain.strategy,
            "recipe": strategy.recipe,
            "acquisition": strategy.acquisition,
            "seed": chain.seed,
        }
        last = layout.rounds(chain.budget, chain.dataset)
        if chain in departed:
            last = departed[chain].round_number - 1
        for number in range(1, last + 1):
            found = row(chain, number, layout.trained(chain, number))
            if found is not None:
                yield {**about, **found}


def _read(path: Path, keys: list[str], partial: bool) -> Row | None:
    """Some keys of a JSON file."""
    if partial and not path.exists():
        return None
    values = read_json(path)
    try:
        return {key: values[key] for key in keys}
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing; delete the file and run again") from None
