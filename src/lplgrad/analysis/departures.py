"""Find where the rounds of a study depart from its configuration: other settings, other data or other labels.

Every training and every query writes its settings next to its results (``rounds.settings``). Whatever collects rounds
compares these files with the study, key by key, so that rounds that do not belong together never appear as one study.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lplgrad.datasets.prepared.arrays import checksums
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest, read_json
from lplgrad.rounds.settings import QUERY, TRAINING, with_defaults
from lplgrad.study.jobs import QueryJob, TrainingJob
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.validation import Settings, first_difference


class Departure(NamedTuple):
    """Where a trial departs from the study."""

    round_number: int  # the first round whose results do not belong to the study
    file: Path  # the settings that differ
    problem: str  # the key, its value in the file, and its value in the study


Departures = Mapping[Trial, Departure]


def behind(layout: Layout, trial: Trial, labels_of: int, models: Iterable[int] = ()) -> list[str]:
    """List the settings of all jobs that some results of a trial come from: of trainings, then of queries.

    The results are the labels of the round ``labels_of``, bought by the query before it, and the ``models`` of rounds.
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
    return layout.study.recipes[strategy.recipe].reads_previous, bool(strategy.needs)


def departures(
    layout: Layout, trials: Iterable[Trial] | None = None, files: Collection[str] | None = None
) -> Departures:
    """Find the trials of which a finished round was run with other settings, data or labels than the study's.

    If a data set is not prepared here, its rounds must agree with each other. Raise UserError for a broken file.

    Args:
        layout: of the study.
        trials, files: the trials and the settings that are compared; None for all.
    """
    known: dict[Path, str] = {}  # by file, since trials share round 1
    sets: dict[str, dict[str, str]] = {}
    settings: dict[tuple[str, str, str], tuple[dict[str, Any], dict[str, Any]]] = {}
    found = {}
    for trial in layout.trials() if trials is None else trials:
        row = (trial.budget, trial.dataset, trial.strategy)
        if row not in settings:
            recipe = layout.study.strategies[trial.strategy].recipe
            training = with_defaults(TrainingJob, layout.training_settings(trial.dataset, recipe))
            settings[row] = training, with_defaults(QueryJob, layout.query_settings(*row))
        if trial.dataset not in sets:
            prepared = Path(layout.data(trial.dataset))
            sets[trial.dataset] = checksums(prepared) if (prepared / "dataset.json").exists() else {}
        for job in _jobs(layout, trial, *settings[row]):
            if files is not None and str(job.file) not in files:
                continue
            if job.file not in known:
                known[job.file] = _compare(job, sets[trial.dataset])
            if known[job.file]:
                found[trial] = Departure(job.counts_from, job.file, known[job.file])
                break
    return found


def check_settings(
    layout: Layout, trial: Trial | None = None, files: Collection[str] | None = None, partial: bool = False
) -> Departures:
    """Raise UserError if rounds depart from the study, or with ``partial`` return these departures.

    Only one ``trial`` or some ``files`` of settings (see ``behind``) are compared if they are given.
    """
    found = departures(layout, None if trial is None else [trial], files)
    for first in () if partial else found.values():
        raise UserError(
            f"{first.file}: {first.problem}; run Snakemake with this configuration, which runs the round again (if it "
            "has nothing to do, delete this file and give it to Snakemake as the target), or name the configuration "
            "that ran it"
        )
    return found


class _Job(NamedTuple):
    """A training or a query that is finished."""

    counts_from: int  # the first round that its result belongs to
    file: Path  # its settings
    kind: type[Settings]
    expected: dict[str, Any]  # what the study expects there, every default written out
    labeled: Path  # the labelled set that it should have read
    before: Path | None  # settings of the training whose checkpoint it should have read; None if it reads none


def _jobs(layout: Layout, trial: Trial, training: dict[str, Any], query: dict[str, Any]) -> Iterator[_Job]:
    """The finished jobs of a trial, in the order in which they ran; the study's settings of each kind are given."""
    budget = layout.budget(trial.budget, trial.dataset)
    target = budget.target_accuracy
    warm, asks = _reads(layout, trial)
    before: Path | None = None
    for number in range(1, budget.rounds + 1):
        about = {"round": number, "seed": trial.seed, "labels": budget.bought(number)}
        labeled = Path(layout.labels(trial, number))
        trained, queried = Path(layout.trained(trial, number)), Path(layout.round(trial, number))
        if (trained / "metrics.json").exists():
            expected: dict[str, Any] = {
                **about,
                "target_accuracy": target if number > 1 else None,
                "settings": training,
            }
            expected |= _files(layout.training_files(trial.dataset, layout.study.strategies[trial.strategy].recipe))
            if layout.study.person:
                pool = layout.pool(trial, number)
                expected |= {"pool": file_digest(Path(pool))} if Path(pool).exists() else {}
            yield _Job(number, trained / TRAINING, TrainingJob, expected, labeled, before if warm else None)
        before = trained / TRAINING
        if layout.study.person:
            continue  # what a person has labelled stays, whatever the settings of the query were
        if number < budget.rounds and (queried / "next_labeled.csv").exists():
            expected = {**about, "target_accuracy": target, "settings": query}
            expected |= _files(layout.asked_files(trial.dataset, trial.strategy))
            yield _Job(number + 1, queried / QUERY, QueryJob, expected, labeled, before if asks else None)


def _files(paths: Iterable[str]) -> dict[str, Any]:
    """What a job's settings should say of the files that its options name, if they are here."""
    found = {path: _digest(path) for path in paths if Path(path).is_file()}
    return {"files": found} if found else {}


@cache
def _digest(path: str) -> str:
    return file_digest(Path(path))


def _compare(job: _Job, data: dict[str, str]) -> str:
    """Say how a job departs from the study; empty if it does not. Unknown (empty) checksums are taken from the job."""
    if not job.file.exists():
        return "missing, so nothing says how this round was run (Snakemake writes it if it is the target)"
    values = read_json(job.file)
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
    before = job.before
    if before and before.exists() and values.get("checkpoint") != read_json(before).get("trained"):
        return f"{before.parent} has been trained again since"
    return ""
