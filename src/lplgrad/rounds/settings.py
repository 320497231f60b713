"""The settings that a round was run with: written as JSON beside its results, and compared with those of a study.

``train`` writes ``settings.json`` and ``query`` writes ``query_settings.json``, each with digests of the data, the
labels and the checkpoint that the job was given. Whatever collects rounds compares these files with the study, key by
key, so that rounds of different settings, data or labels never appear as one study.

Imports neither torch nor Snakemake.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lplgrad import __version__, acquisition
from lplgrad.datasets.prepared.arrays import checksums
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest, read_json, write_json
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.settings import QueryJob, TrainingJob
from lplgrad.study.validation import Settings, first_difference, parse

if TYPE_CHECKING:
    from lplgrad.rounds.round import Round

TRAINING, QUERY = "settings.json", "query_settings.json"
RERUN = "delete it and give it to Snakemake as the target, which runs the round again"
VERSION = "[0-9][0-9A-Za-z.+_-]*"


@dataclass(frozen=True)
class Difference:
    """Where a trial departs from the study.

    Attributes:
        trial: the trial.
        round_number: the first of its rounds whose results do not belong to the study.
        file: the settings that differ.
        problem: the key, its value in the file, and its value in the study.
    """

    trial: Trial
    round_number: int
    file: Path
    problem: str


def digests(arguments: argparse.Namespace) -> dict[str, object]:
    """The digests of what a training or a query is given. It takes them when it begins, since a file may change later.

    Args:
        arguments: of the command: ``data``, ``labeled`` and ``checkpoint``.
    """
    return {
        "dataset": checksums(arguments.data),
        "labeled": file_digest(arguments.labeled),
        "checkpoint": None if arguments.checkpoint is None else file_digest(arguments.checkpoint),
    }


def write_settings(here: Round[Any], name: str, torch: str | None = None) -> None:
    """Write what a training or a query was given, into the folder of its round.

    Args:
        here: the round.
        name: of the file, ``TRAINING`` or ``QUERY``. Of a training, the digest of its own checkpoint is written too.
        torch: the version of PyTorch; None for the one that is installed.
    """
    values = {
        "round": here.number,
        "seed": here.seed,
        "labels": None if here.stopped else len(here.labeled),
        "target_accuracy": here.arguments.target_accuracy,
        "settings": with_defaults(type(here.settings), here.settings.model_dump(by_alias=True)),
        **here.digests,
    }
    if name == TRAINING:
        values["trained"] = file_digest(here.folder / "checkpoint.safetensors")
    versions = {"lplgrad": __version__, "torch": torch or version("torch")}
    write_json(here.folder / name, {**values, "versions": versions})


def torch_version(folder: Path) -> str:
    """The version of PyTorch that a round was trained with.

    Raises:
        UserError: the round's settings do not tell.
    """
    path = folder / TRAINING
    try:
        found = read_json(path)["versions"]["torch"]
        if isinstance(found, str) and re.fullmatch(VERSION, found):
            return found
    except (KeyError, TypeError):
        pass
    raise UserError(f"{path}: no version of PyTorch in it; {RERUN}")


def behind(layout: Layout, trial: Trial, labels_of: int, models: Iterable[int] = ()) -> list[str]:
    """List the settings of all jobs that some results of a trial come from.

    Args:
        layout: of the study.
        trial: the trial.
        labels_of: the round whose labels are among these results. The query before it bought them.
        models: the rounds whose models are among these results.

    Returns:
        Paths of settings of trainings, then of queries.
    """
    warm, asks = _reads(layout, trial)
    trained = {*models, *(range(1, labels_of) if asks else ())}
    if warm:
        trained = set(range(1, max(trained, default=0) + 1))
    return [
        *(f"{layout.trained(trial, number)}/{TRAINING}" for number in sorted(trained)),
        *(f"{layout.round(trial, number)}/{QUERY}" for number in range(1, labels_of)),
    ]


def _reads(layout: Layout, trial: Trial) -> tuple[bool, bool]:
    """Whether a training reads the checkpoint of the round before, and whether a query reads that of its round."""
    strategy = layout.study.strategies[trial.strategy]
    warm = layout.study.recipes[strategy.recipe].init == "warm"
    return warm, bool(acquisition.load(strategy.acquisition).needs)


def differences(
    layout: Layout, trials: Iterable[Trial] | None = None, files: Collection[str] | None = None
) -> dict[Trial, Difference]:
    """The trials of which some finished rounds were run with other settings, data or labels than the study's.

    Only the files of rounds that are finished are read. A key that a file of settings lacks has its default. If a data
    set is not prepared here, its rounds must agree with each other.

    Args:
        layout: of the study.
        trials: those that are compared; None for all.
        files: the settings that are compared; None for all of these trials.

    Raises:
        UserError: a file of settings is broken.
    """
    known: dict[Path, str] = {}
    sets: dict[str, dict[str, str]] = {}
    settings: dict[tuple[str, str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
    found = {}
    for trial in layout.trials() if trials is None else trials:
        row = (trial.budget, trial.dataset, trial.strategy)
        if row not in settings:
            recipe = layout.study.strategies[trial.strategy].recipe
            training = with_defaults(TrainingJob, layout.training_settings(trial.dataset, recipe))
            settings[row] = training, with_defaults(QueryJob, layout.query_settings(*row))
        manifest = Path(layout.data(trial.dataset)) / "dataset.json"
        if trial.dataset not in sets and manifest.exists():
            sets[trial.dataset] = checksums(manifest.parent)
        for job in _jobs(layout, trial, *settings[row]):
            if files is not None and str(job.file) not in files:
                continue
            if job.file not in known:
                known[job.file] = _compare(job, sets.setdefault(trial.dataset, {}))
            if known[job.file]:
                found[trial] = Difference(trial, job.counts_from, job.file, known[job.file])
                break
    return found


def check_settings(layout: Layout, trial: Trial | None = None, files: Collection[str] | None = None) -> None:
    """Refuse a study of which some rounds do not belong together.

    Args:
        layout: of the study.
        trial: the only one that is compared; None for all.
        files: the only settings of it that are compared, see ``behind``; None for all.

    Raises:
        UserError: a round was run with other settings, data or labels than the study's.
    """
    for first in differences(layout, None if trial is None else [trial], files).values():
        raise UserError(
            f"{first.file}: {first.problem}; run Snakemake with this configuration, which runs the round again (if it "
            "has nothing to do, delete this file and give it to Snakemake as the target), or name the configuration "
            "that ran it"
        )


@dataclass(frozen=True)
class _Job:
    """A training or a query that is finished.

    Attributes:
        counts_from: the first round that its result belongs to.
        file: its settings.
        kind: of its settings.
        expected: what the study expects there, every default written out.
        labeled: the labelled set that it should have read.
        before: settings of the training whose checkpoint it should have read; None if it reads none.
    """

    counts_from: int
    file: Path
    kind: type[Settings]
    expected: dict[str, Any]
    labeled: Path
    before: Path | None


def _jobs(layout: Layout, trial: Trial, training: dict[str, Any], query: dict[str, Any]) -> Iterator[_Job]:
    """The finished jobs of a trial, in the order in which they ran.

    Args:
        layout, trial: of the trial.
        training, query: what the study says of its trainings and its queries.
    """
    budget = layout.budget(trial.budget, trial.dataset)
    target = budget.target_accuracy
    warm, asks = _reads(layout, trial)
    before: Path | None = None
    for number in range(1, budget.rounds + 1):
        about = {"round": number, "seed": trial.seed, "labels": number * budget.query_size}
        labeled = Path(layout.labels(trial, number))
        trained, queried = Path(layout.trained(trial, number)), Path(layout.round(trial, number))
        if (trained / "metrics.json").exists():
            expected = {**about, "target_accuracy": target if number > 1 else None, "settings": training}
            yield _Job(number, trained / TRAINING, TrainingJob, expected, labeled, before if warm else None)
        before = trained / TRAINING
        if number < budget.rounds and (queried / "next_labeled.csv").exists():
            expected = {**about, "target_accuracy": target, "settings": query}
            yield _Job(number + 1, queried / QUERY, QueryJob, expected, labeled, before if asks else None)


def _compare(job: _Job, data: dict[str, str]) -> str:
    """What a job was given that the study does not give it; empty if all agrees.

    Args:
        job: the job.
        data: checksums of its data set; empty if they are not known, and then they are taken from this job.
    """
    path = job.file
    if not path.exists():
        return "missing, so nothing says how this round was run (Snakemake writes it if it is the target)"
    values = read_json(path)
    settings = values.get("settings", {})
    try:
        if settings != job.expected["settings"]:
            settings = with_defaults(job.kind, settings)
    except UserError as error:
        return f"{error}, so another version of this program ran the round"
    found = {"target_accuracy": None, **values, "settings": settings}
    if "labels" in found and found["labels"] is None and job.expected["target_accuracy"] is not None:
        found["labels"] = job.expected["labels"]  # the trial had stopped with fewer
    for key, expected in job.expected.items():
        if problem := first_difference(found.get(key), expected, key):
            return problem.removeprefix("settings.")
    recorded = values.get("dataset")
    if not data and isinstance(recorded, dict):
        data.update(recorded)
    if recorded != data:
        return "the data set has changed since"
    if job.labeled.exists() and values.get("labeled") != file_digest(job.labeled):
        return f"{job.labeled} has changed since"
    if job.before is not None and job.before.exists():
        trained = read_json(job.before).get("trained")
        if values.get("checkpoint") != trained:
            return f"{job.before.parent} has been trained again since"
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
