"""A study laid out: its trials of rounds, the folder of each, and the settings of each job.

The layout, below ``results/<study>/``::

    <budget>/<dataset>/start/seed<k>/labeled.csv        the labels of round 1
    <budget>/<dataset>/start/seed<k>/<recipe>/          training of round 1, once for all strategies of a recipe
    <budget>/<dataset>/<strategy>/seed<k>/round<r>/     training of round r (r >= 2), its query (but in the last), and
                                                        next_labeled.csv, the labels of round r + 1

Imports neither torch nor Snakemake.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path, PurePosixPath

from lplgrad.study.settings import Budget, Compute, ObservationJob, QueryJob, Study, TrainingJob


@dataclass(frozen=True)
class Trial:
    """One trial of one strategy: a budget, a data set, a strategy and a seed."""

    budget: str
    dataset: str
    strategy: str
    seed: int


class Layout:
    """Where everything of a study is.

    Args:
        study: the study.
        unavailable: those of its data sets that cannot be had.
    """

    def __init__(self, study: Study, unavailable: Collection[str] = ()) -> None:
        self.study = study
        self.datasets = [name for name in study.run.datasets if name not in unavailable]
        self.root = PurePosixPath("results") / study.study

    def budget(self, budget: str, dataset: str) -> Budget:
        """A data set's budget of some name."""
        return self.study.datasets[dataset].budgets[budget]

    def rounds(self, budget: str, dataset: str) -> int:
        """Number of rounds of a trial."""
        return self.budget(budget, dataset).rounds

    def trials(self) -> Iterator[Trial]:
        """All trials, in the order of the configuration."""
        run = self.study.run
        for budget in run.budgets:
            for dataset in self.datasets:
                for strategy in run.strategies:
                    for seed in run.seeds:
                        yield Trial(budget, dataset, strategy, seed)

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
        """Folder of what all strategies of a seed share."""
        return str(self.root / budget / dataset / "start" / f"seed{seed}")

    def round(self, trial: Trial, number: int) -> str:
        """Folder of a strategy's round: its training (from round 2 on), its scores, the next round's labels."""
        return str(self.root / trial.budget / trial.dataset / trial.strategy / f"seed{trial.seed}" / f"round{number}")

    def labels(self, trial: Trial, number: int) -> str:
        """The labelled set that a round trains on."""
        if number == 1:
            return f"{self.start(trial.budget, trial.dataset, trial.seed)}/labeled.csv"
        return f"{self.round(trial, number - 1)}/next_labeled.csv"

    def trained(self, trial: Trial, number: int) -> str:
        """Folder of the checkpoint and the measurements of a round."""
        if number == 1:
            recipe = self.study.strategies[trial.strategy].recipe
            return f"{self.start(trial.budget, trial.dataset, trial.seed)}/{recipe}"
        return self.round(trial, number)

    def ablation_pairs(self) -> Iterator[tuple[str, str]]:
        """The strategies that query alike and train alike but for the auxiliary module: with it, and without."""
        for one, other in permutations(self.study.run.strategies, 2):
            joint, plain = self.study.strategies[one], self.study.strategies[other]
            with_it, without = self.study.recipes[joint.recipe], self.study.recipes[plain.recipe]
            query_alike = (joint.acquisition, joint.all_options) == (plain.acquisition, plain.all_options)
            train_alike = with_it.without_auxiliary() == without.without_auxiliary()
            if with_it.auxiliary and not without.auxiliary and query_alike and train_alike:
                yield one, other

    def shown_models(self) -> dict[Trial, list[int]]:
        """The trials whose models the configuration asks to look into, and after which rounds."""
        wanted, run = self.study.model_figures, self.study.run
        seed = run.seeds[0] if wanted.seed is None else wanted.seed
        shown = {}
        for trial in self.trials():
            named = trial.budget in wanted.budgets and trial.dataset in wanted.datasets
            if named and trial.strategy in wanted.strategies and trial.seed == seed:
                last = self.rounds(trial.budget, trial.dataset)
                shown[trial] = [number for number in sorted(set(wanted.rounds)) if number <= last]
        return {trial: numbers for trial, numbers in shown.items() if numbers}

    def gone_models(self) -> dict[Trial, range]:
        """The rounds that are trained again for models that are to be shown and were not kept: of each trial all that
        follow its newest kept model before the first of them, since Snakemake remakes what depends on what it remakes.
        """
        gone = {}
        for trial, numbers in self.shown_models().items():
            last = self.rounds(trial.budget, trial.dataset)
            folders = [Path(self.trained(trial, number)) for number in range(1, last + 1)]
            kept = [(folder / "checkpoint.safetensors").exists() for folder in folders]
            wanted = [
                number
                for number in numbers
                if (folders[number - 1] / "metrics.json").exists()
                and not kept[number - 1]
                and not Path(self.round(trial, number), "features.npy").exists()
            ]
            if wanted:
                before = [number for number in range(1, wanted[0]) if kept[number - 1]]
                gone[trial] = range(max(before, default=0) + 1, last + 1)
        return gone

    def kept_checkpoints(self) -> str:
        """A regular expression for the rounds whose checkpoints stay, as ``<budget>/<dataset>/.../round<r>/``."""
        if self.study.keep_checkpoints:
            return ""
        last = [
            f"{budget}/{dataset}/[^/]+/seed[0-9]+/round{self.rounds(budget, dataset)}/"
            for budget in self.study.run.budgets
            for dataset in self.datasets
        ]
        shown = [
            f"{trial.budget}/{trial.dataset}/{trial.strategy}/seed{trial.seed}/round(?:{'|'.join(map(str, numbers))})/"
            for trial, numbers in self.shown_models().items()
        ]
        return "|".join([*last, *shown])

    def leftover_checkpoints(self) -> Iterator[Path]:
        """Models that are not kept and that the next round has used; Snakemake deletes them, unless it is killed."""
        kept = re.compile(self.kept_checkpoints())
        for trial in self.trials():
            for number in range(2, self.rounds(trial.budget, trial.dataset)):
                folder = PurePosixPath(self.round(trial, number))
                checkpoint = Path(folder, "checkpoint.safetensors")
                used = Path(self.round(trial, number + 1), "metrics.json").exists()
                if used and checkpoint.exists() and not kept.match(f"{folder.relative_to(self.root)}/"):
                    yield checkpoint

    def target(self, budget: str, dataset: str) -> float | None:
        """The test accuracy at which a trial stops, if one is set."""
        return self.budget(budget, dataset).target_accuracy

    def _compute(self) -> Compute:
        """What of the machine's part belongs to a job's result."""
        return Compute.model_validate({name: getattr(self.study.compute, name) for name in Compute.model_fields})

    def study_settings(self) -> str:
        """``--settings`` of ``lplgrad study``, as JSON: the study without what it defines and does not run."""
        values = self.study.model_dump(by_alias=True)
        strategies = {name: values["strategies"][name] for name in self.study.run.strategies}
        datasets = {name: values["datasets"][name] for name in self.study.run.datasets}
        for row in datasets.values():
            row["budgets"] = {name: row["budgets"][name] for name in self.study.run.budgets}
        recipes = {name: values["recipes"][name] for name in self.recipes()}
        figures = values["model_figures"]
        for kind in ("budgets", "datasets", "strategies"):
            figures[kind] = [name for name in figures[kind] if name in values["run"][kind]]
        return _json({**values, "recipes": recipes, "strategies": strategies, "datasets": datasets}, sort_keys=False)

    def source_settings(self, dataset: str) -> str:
        """``--settings`` of ``lplgrad prepare``, as JSON."""
        row = self.study.datasets[dataset]
        return _json({"source": row.source, **row.options})

    def training_settings(self, dataset: str, recipe: str) -> str:
        """``--settings`` of ``lplgrad train``, as JSON."""
        row = self.study.datasets[dataset]
        job = TrainingJob(
            model=row.model,
            training=row.training,
            augmentation=row.augmentation,
            normalization=row.normalization,
            recipe=self.study.recipes[recipe],
            compute=self._compute(),
        )
        return _json(job.model_dump(by_alias=True))

    def query_settings(self, budget: str, dataset: str, strategy: str) -> str:
        """``--settings`` of ``lplgrad query``, as JSON."""
        row = self.study.datasets[dataset]
        job = QueryJob(
            acquisition=self.study.strategies[strategy].acquisition,
            options=self.study.strategies[strategy].options,
            query_size=row.budgets[budget].query_size,
            candidates=row.budgets[budget].candidates,
            query_transform=row.query_transform,
            augmentation=row.augmentation,
            compute=self._compute(),
        )
        return _json(job.model_dump(by_alias=True))

    def observation_settings(self) -> str:
        """``--settings`` of ``lplgrad observe``, as JSON."""
        wanted = self.study.model_figures
        job = ObservationJob(
            unlabeled_images=wanted.unlabeled_images,
            embedded_images=wanted.embedded_images,
            compute=self._compute(),
        )
        return _json(job.model_dump())


def one_of(names: list[str]) -> str:
    """A regular expression that matches any of some names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def _json(value: Mapping[str, object], sort_keys: bool = True) -> str:
    # YAML reads the escapes that JSON has for an emoji as two halves of a letter.
    return json.dumps(value, sort_keys=sort_keys, ensure_ascii=False)
