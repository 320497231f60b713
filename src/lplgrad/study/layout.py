"""The layout of a study: its trials, the folder of each round (see docs/architecture.md), the settings of each job."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from copy import copy
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path, PurePosixPath
from typing import Any

from lplgrad.acquisition import is_representation
from lplgrad.machine.files import read_json
from lplgrad.study.budgets import REPRESENTATION, Budget, ReachedBudget
from lplgrad.study.jobs import ObservationJob, QueryJob, StartJob, TrainingJob
from lplgrad.study.settings import Compute, Study
from lplgrad.study.validation import Settings, input_files

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Trial:
    """One trial of one strategy: a budget, a data set, a strategy and a seed."""

    budget: str
    dataset: str
    strategy: str
    seed: int


class Layout:
    """The trials, folders and jobs of a study, without its ``unavailable`` data sets."""

    def __init__(self, study: Study, unavailable: Collection[str] = ()) -> None:
        self.study = study
        self.datasets = [name for name in study.run.datasets if name not in unavailable]
        self.root = PurePosixPath("results") / study.study
        self.counts: list[int] = []  # of a study that a person labels: labels that each round has bought so far
        if study.person is not None:
            trial = next(self.trials(), None)
            before: list[int] = []
            while trial and (pool := Path(self.pool(trial, len(self.counts) + 1))).exists():
                bought = read_json(pool).get("bought")
                if not isinstance(bought, list) or bought[:-1] != before:
                    break  # left over from before its trial began anew
                self.counts.append(sum(bought))
                before = bought

    def with_round(self, labels: int) -> Layout:
        """Return the layout of a study that a person labels, with one round more that has so many labels."""
        more = copy(self)
        more.counts = [*self.counts, labels]
        return more

    def budget(self, budget: str, dataset: str) -> Budget:
        """A data set's budget of some name. That of a person has as many rounds as there are labels for."""
        planned = self.study.datasets[dataset].budgets[budget]
        if self.study.person is None:
            return planned
        return ReachedBudget.model_construct(**dict(planned), counts=self.counts or [planned.query_size])

    def rounds(self, budget: str, dataset: str) -> int:
        """Number of rounds of a trial."""
        return self.budget(budget, dataset).rounds

    def bought(self, budget: str, dataset: str, number: int) -> int:
        """Number of labels that a trial has bought when a round trains, if it has not stopped."""
        return self.budget(budget, dataset).bought(number)

    def numbers(self, trial: Trial) -> range:
        """The numbers of the rounds of a trial."""
        return range(1, self.rounds(trial.budget, trial.dataset) + 1)

    def trials(self) -> Iterator[Trial]:
        """All trials, in the order of the configuration."""
        run = self.study.run
        return starmap(Trial, product(run.budgets, self.datasets, run.strategies, run.seeds))

    def recipes(self) -> list[str]:
        """The recipes of the strategies that run."""
        return list(dict.fromkeys(self.study.strategies[name].recipe for name in self.study.run.strategies))

    def data(self, dataset: str) -> str:
        """Folder of a prepared data set."""
        return str(PurePosixPath(self.study.data_dir) / dataset)

    def preparation_log(self, dataset: str) -> str:
        """Log of ``lplgrad prepare`` when this study's workflow runs it."""
        return f"logs/{self.study.study}/{dataset}/prepare.log"

    def start(self, budget: str, dataset: str, seed: int | str) -> str:
        """Folder of what all strategies of a seed share; a person has one strategy, and another one begins anew."""
        own = self.study.run.strategies if self.study.person else []
        return str(PurePosixPath(self.root, budget, dataset, "start", *own, f"seed{seed}"))

    def round(self, trial: Trial, number: int) -> str:
        """Folder of a strategy's round: its training (from round 2 on), its scores, the next round's labels."""
        return str(self.root / trial.budget / trial.dataset / trial.strategy / f"seed{trial.seed}" / f"round{number}")

    def labels(self, trial: Trial, number: int) -> str:
        """The labelled set that a round trains on."""
        if number == 1:
            return f"{self.start(trial.budget, trial.dataset, trial.seed)}/labeled.csv"
        return f"{self.round(trial, number - 1)}/next_labeled.csv"

    def pool(self, trial: Trial, number: int) -> str:
        """The pool of a round, in a study that a person labels."""
        labels = PurePosixPath(self.labels(trial, number))
        return str(labels.with_name("pool.json" if number == 1 else "next_pool.json"))

    def batch(self, trial: Trial, number: int) -> str:
        """The images that the query of a round chose for a person."""
        return f"{self.round(trial, number)}/to_label.csv"

    def answers(self, dataset: str) -> str:
        """Folder of the tables that a person fills in."""
        return str(PurePosixPath("labels") / dataset)

    def trained(self, trial: Trial, number: int) -> str:
        """Folder of the checkpoint and the measurements of a round."""
        if number == 1:
            recipe = self.study.strategies[trial.strategy].recipe
            return f"{self.start(trial.budget, trial.dataset, trial.seed)}/{recipe}"
        return self.round(trial, number)

    def shown_models(self) -> dict[Trial, list[int]]:
        """The trials whose models the configuration asks to look into, and after which rounds."""
        wanted, shown = self.study.model_figures, {}
        seed = self.study.run.seeds[0] if wanted.seed is None else wanted.seed
        for trial in self.trials():
            named = trial.budget in wanted.budgets and trial.dataset in wanted.datasets
            numbers = [number for number in self.numbers(trial) if number in wanted.rounds]
            if named and trial.strategy in wanted.strategies and trial.seed == seed and numbers:
                shown[trial] = numbers
        return shown

    def of_trainings(self, *names: str) -> list[str]:
        """Files of all trainings; round 1 once for all strategies of a recipe."""
        numbers = ((trial, number) for trial in self.trials() for number in self.numbers(trial))
        folders = dict.fromkeys(self.trained(trial, number) for trial, number in numbers)
        return [f"{folder}/{name}" for folder in folders for name in names]

    def of_queries(self, *names: str) -> list[str]:
        """Files of all queries; the last round has none."""
        numbers = ((trial, number) for trial in self.trials() for number in self.numbers(trial)[:-1])
        return [f"{self.round(trial, number)}/{name}" for trial, number in numbers for name in names]

    def missing_results(self) -> list[str]:
        """The files of rounds that are missing beside others, or although the study has been finished before."""
        kept = ((trial, number) for trial, numbers in self._kept_models().items() for number in numbers)
        of_queries = ("scores.csv", "next_labeled.csv", "test_scores.csv", "query_settings.json", "query_timing.json")
        results = [
            *dict.fromkeys(self.labels(trial, 1) for trial in self.trials()),
            *self.of_trainings("metrics.json", "settings.json", "test_logits.npy", "timing.json"),
            *self.of_queries(*(() if self.study.person else of_queries)),  # those of a person are history
            *dict.fromkeys(f"{self.trained(trial, number)}/{CHECKPOINT}" for trial, number in kept),
        ]
        missing = [path for path in results if not Path(path).exists()]
        finished = any(Path(self.root, name).exists() for name in ("measurements.csv", "timings.csv", "statistics"))
        return [path for path in missing if finished or Path(path).parent.exists()]

    def _kept_models(self) -> dict[Trial, list[int]]:
        """The rounds whose checkpoints a finished study must have; shown models only until they were looked into."""
        kept, shown = {}, self.shown_models()
        for trial in self.trials():
            numbers, unseen = self.numbers(trial), shown.get(trial, [])
            unseen = [number for number in unseen if not Path(self.round(trial, number), "features.npy").exists()]
            kept[trial] = list(numbers) if self.study.keep_checkpoints else sorted({1, numbers[-1], *unseen})
        return kept

    def gone_models(self) -> dict[Trial, list[int]]:
        """The rounds that are trained again because checkpoints of finished rounds are missing, and all that follow."""
        again = {}
        for trial, kept in self._kept_models().items():
            folders = {number: Path(self.trained(trial, number)) for number in self.numbers(trial)}
            there = {number for number, folder in folders.items() if (folder / CHECKPOINT).exists()}
            gone = [number for number in kept if number not in there and (folders[number] / "metrics.json").exists()]
            strategy, budget = self.study.strategies[trial.strategy], self.budget(trial.budget, trial.dataset)
            reads_before = self.study.recipes[strategy.recipe].reads_previous or budget.target_accuracy is not None
            while gone and reads_before and gone[0] > 1 and gone[0] - 1 not in there:
                gone.insert(0, gone[0] - 1)
            if gone and (reads_before or strategy.needs):
                gone = list(range(gone[0], len(folders) + 1))
            if gone:
                again[trial] = gone
        return again

    def kept_checkpoints(self) -> str:
        """A regular expression for the rounds whose checkpoints stay, as ``<budget>/<dataset>/.../round<r>/``."""
        if self.study.keep_checkpoints:
            return ""
        panels = product(self.study.run.budgets, self.datasets)
        last = [f"{'/'.join(panel)}/[^/]+/seed[0-9]+/round{self.rounds(*panel)}/" for panel in panels]
        shown = [
            f"{trial.budget}/{trial.dataset}/{trial.strategy}/seed{trial.seed}/round(?:{'|'.join(map(str, numbers))})/"
            for trial, numbers in self.shown_models().items()
        ]
        return "|".join([*last, *shown])

    def leftover_checkpoints(self) -> Iterator[Path]:
        """Models that are not kept and that the next round has used; Snakemake deletes them, unless it is killed."""
        shown = self.shown_models()
        for trial in [] if self.study.keep_checkpoints else self.trials():
            for number in self.numbers(trial)[1:-1]:
                checkpoint = Path(self.round(trial, number), CHECKPOINT)
                used = Path(self.round(trial, number + 1), "metrics.json").exists()
                if used and checkpoint.exists() and number not in shown.get(trial, []):
                    yield checkpoint

    def study_settings(self) -> dict[str, Any]:
        """``--settings`` of ``lplgrad study``: the study without what it defines and does not run, and without
        ``highlight``, which only figures need."""
        values = self.study.model_dump(by_alias=True)
        values.pop("highlight", None)
        names = {**values["run"], "recipes": self.recipes()}
        for kind in ("recipes", "strategies", "datasets"):
            values[kind] = {name: values[kind][name] for name in names[kind]}
        for row in values["datasets"].values():
            row["budgets"] = {name: row["budgets"][name] for name in names["budgets"]}
        figures = values["model_figures"]
        for kind in ("budgets", "datasets", "strategies"):
            figures[kind] = [name for name in figures[kind] if name in names[kind]]
        return values

    def source_settings(self, dataset: str) -> dict[str, Any]:
        """``--settings`` of ``lplgrad prepare``."""
        row = self.study.datasets[dataset]
        oracle = {"oracle": row.oracle} if row.oracle == "person" else {}
        return {"source": row.source, **oracle, **row.checked_options.model_dump(by_alias=True)}

    def training_settings(self, dataset: str, recipe: str) -> dict[str, Any]:
        """``--settings`` of ``lplgrad train``."""
        return self._job(TrainingJob, {**dict(self.study.datasets[dataset]), "recipe": self.study.recipes[recipe]})

    def training_files(self, dataset: str, recipe: str) -> list[str]:
        """Files that options of a training name."""
        backbone, trains = self.study.datasets[dataset].backbone, self.study.recipes[recipe]
        return [*input_files(backbone.checked_options), *input_files(trains.checked_options)]

    def query_files(self, dataset: str, strategy: str) -> list[str]:
        """Files that options of a query name."""
        row = self.study.strategies[strategy]
        of_model = self.training_files(dataset, row.recipe) if row.needs else []
        return [*of_model, *self.asked_files(dataset, strategy)]

    def asked_files(self, dataset: str, strategy: str) -> list[str]:
        """The same without those of its learner."""
        row = self.study.strategies[strategy]
        return [*input_files(row.checked_options), *self._features(dataset, row.needs)]

    def _features(self, dataset: str, needs: Collection[str]) -> list[str]:
        """The file with the representation of a pool, if it is needed and there is one."""
        path = self.study.datasets[dataset].features
        return [path] if path is not None and any(map(is_representation, needs)) else []

    def features(self, dataset: str) -> str | None:
        """The file with the representation of a pool; None if no job of the study reads it."""
        run, budgets = self.study.run, self.study.datasets[dataset].budgets
        chosen = any(budgets[name].start.by is not None for name in run.budgets)
        needs = {need for name in run.strategies for need in self.study.strategies[name].needs}
        return next(iter(self._features(dataset, needs | set(REPRESENTATION if chosen else ()))), None)

    def query_settings(self, budget: str, dataset: str, strategy: str) -> dict[str, Any]:
        """``--settings`` of ``lplgrad query``."""
        row, asked = self.study.datasets[dataset], self.study.strategies[strategy]
        training = row.training if asked.trains_as_round else None
        chosen = {"acquisition": asked.acquisition, "options": asked.options, "training": training}
        features = next(iter(self._features(dataset, asked.needs)), None)
        return self._job(QueryJob, {**dict(row), **dict(row.budgets[budget]), **chosen, "features": features})

    def start_files(self, budget: str, dataset: str) -> list[str]:
        """Files that the choice of the first labels reads."""
        start = self.budget(budget, dataset).start
        if start.by is None:
            return []
        return [*input_files(start.checked_options), *self._features(dataset, REPRESENTATION)]

    def start_settings(self, budget: str, dataset: str) -> dict[str, Any]:
        """``--settings`` of ``lplgrad start``; empty for a random draw."""
        start, row = self.budget(budget, dataset).start, self.study.datasets[dataset]
        if start.by is None:
            return {}
        given = {"acquisition": start.by, "options": start.options, "features": row.features}
        return self._job(StartJob, given)

    def observation_settings(self) -> dict[str, Any]:
        """``--settings`` of ``lplgrad observe``."""
        return self._job(ObservationJob, dict(self.study.model_figures))

    def _job(self, kind: type[Settings], given: dict[str, Any]) -> dict[str, Any]:
        """The settings of a kind of job, and the part of ``compute`` that changes its result."""
        compute = {name: getattr(self.study.compute, name) for name in Compute.model_fields}
        given = {**given, "compute": Compute.model_validate(compute)}
        return kind.model_validate({name: given[name] for name in kind.model_fields}).model_dump(by_alias=True)


def one_of(names: list[str]) -> str:
    """A regular expression that matches any of some names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"
