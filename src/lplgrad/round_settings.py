"""The settings that a round was run with: written as JSON beside its results, and compared with those of a study.

``train`` writes ``settings.json`` and ``query`` writes ``query_settings.json``. Whatever collects rounds compares these
files with the study, key by key, so that rounds that were run with different settings never appear as one study.

Imports neither torch nor Snakemake.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lplgrad import __version__, acquisition
from lplgrad.arrays import checksums
from lplgrad.errors import UserError
from lplgrad.files import read_json, write_json
from lplgrad.settings import QueryJob, TrainingJob
from lplgrad.study import Chain, Layout
from lplgrad.validation import Settings, parse

TRAINING, QUERY = "settings.json", "query_settings.json"


@dataclass(frozen=True)
class Difference:
    """Where a trial departs from the study.

    Attributes:
        chain: the trial.
        round_number: the first of its rounds whose results do not belong to the study.
        file: the settings that differ.
        problem: the key, its value in the file, and its value in the study.
    """

    chain: Chain
    round_number: int
    file: Path
    problem: str


def write_round_settings(
    path: Path, settings: Settings, data: Path, *, round_number: int, seed: int, labels: int | None,
    target_accuracy: float | None,
) -> None:  # fmt: skip
    """Write the settings of a training or a query.

    Args:
        path: the file.
        settings: of the job.
        data: folder of the prepared data set; its checksums are written too.
        round_number: the round, from 1.
        seed: of the trial.
        labels: size of the labelled set; None if the trial had stopped.
        target_accuracy: at which the trial stops, as a fraction; None if it does not.
    """
    write_json(
        path,
        {
            "round": round_number,
            "seed": seed,
            "labels": labels,
            "target_accuracy": target_accuracy,
            "settings": settings.model_dump(by_alias=True),
            "dataset": checksums(data),
            "versions": {"lplgrad": __version__, "torch": version("torch")},
        },
    )


def torch_version(folder: Path) -> str:
    """The version of PyTorch that a round was trained with.

    Raises:
        UserError: the round's settings do not tell.
    """
    path = folder / TRAINING
    try:
        return str(read_json(path)["versions"]["torch"])
    except (KeyError, TypeError):
        raise UserError(f"{path}: 'versions' is missing; delete the file and run again") from None


def differences(layout: Layout) -> dict[Chain, Difference]:
    """The trials of which some finished rounds were run with other settings than the study's.

    Only the settings of rounds that are finished are read. A key that a file lacks has its default.

    Raises:
        UserError: a file of settings is broken.
    """
    known: dict[Path, str] = {}
    data: dict[str, dict[str, str] | None] = {}
    found = {}
    for chain in layout.chains():
        if chain.dataset not in data:
            folder = Path(layout.data(chain.dataset))
            data[chain.dataset] = checksums(folder) if (folder / "dataset.json").exists() else None
        for round_number, path, kind, expected in _jobs(layout, chain):
            if path not in known:
                known[path] = _compare(path, kind, {**expected, "dataset": data[chain.dataset]})
            if known[path]:
                found[chain] = Difference(chain, round_number, path, known[path])
                break
    return found


def _jobs(layout: Layout, chain: Chain) -> Iterator[tuple[int, Path, type[Settings], dict[str, Any]]]:
    """The finished jobs of a trial: the first round that each affects, its file, and what the study expects there."""
    size = layout.budget(chain.budget, chain.dataset).query_size
    target = layout.target(chain.budget, chain.dataset)
    training = json.loads(layout.training_settings(chain.dataset, layout.study.strategies[chain.strategy].recipe))
    query = json.loads(layout.query_settings(chain.budget, chain.dataset, chain.strategy))
    last = layout.rounds(chain.budget, chain.dataset)
    for number in range(1, last + 1):
        job = {"round": number, "seed": chain.seed, "labels": number * size}
        trained, queried = Path(layout.trained(chain, number)), Path(layout.round(chain, number))
        if (trained / "metrics.json").exists():
            expected = {**job, "target_accuracy": target if number > 1 else None, "settings": training}
            yield number, trained / TRAINING, TrainingJob, expected
        if number < last and (queried / "next_labeled.csv").exists():
            yield number + 1, queried / QUERY, QueryJob, {**job, "target_accuracy": target, "settings": query}


def _compare(path: Path, kind: type[Settings], expected: Mapping[str, Any]) -> str:
    """The first key whose value in a file is not what the study expects; empty if all agree."""
    if not path.exists():
        return f"{path.name} is missing, so an earlier version of this program ran the round"
    values = read_json(path)
    try:
        settings = with_defaults(kind, values.get("settings", {}))
    except UserError as error:
        return f"{error}, so another version of this program ran the round"
    found = {"target_accuracy": None, **values, "settings": settings}
    wanted = {**expected, "settings": with_defaults(kind, expected["settings"])}
    for key, value in _flat(wanted):
        ours = dict(_flat(found)).get(key, value if key == "labels" else None)
        if value is None and key == "dataset":
            continue  # it is not prepared here
        if key == "labels" and ours is None:
            continue  # the trial had stopped
        if ours != value:
            if key.startswith("dataset."):
                return f"the {key.removeprefix('dataset.').replace('_', ' ')} of the data set have changed since"
            return f"{key.removeprefix('settings.')} is {json.dumps(ours)} there, but {json.dumps(value)} in the study"
    return ""


def with_defaults(kind: type[Settings], values: object) -> dict[str, Any]:
    """Settings of a job with the default of every key that is not given, the options of a query included.

    Raises:
        UserError: a key is unknown, or a value is not allowed.
    """
    settings = parse(kind, values, "settings")
    full = settings.model_dump(by_alias=True)
    if isinstance(settings, QueryJob):
        options = acquisition.load(settings.acquisition).options
        full["options"] = parse(options, settings.options, "settings: options").model_dump(by_alias=True)
    return full


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted key."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
