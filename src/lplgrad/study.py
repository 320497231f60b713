"""A study laid out: its chains of rounds, the folder of each, and the settings of each job.

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
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lplgrad import datasets
from lplgrad.settings import Compute, QueryJob, Study, TrainingJob


@dataclass(frozen=True)
class Chain:
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

    def rounds(self, budget: str, dataset: str) -> int:
        """Number of rounds of a chain."""
        return self.study.datasets[dataset].budgets[budget].rounds

    def chains(self) -> Iterator[Chain]:
        """All chains, in the order of the configuration."""
        run = self.study.run
        for budget in run.budgets:
            for dataset in self.datasets:
                for strategy in run.strategies:
                    for seed in run.seeds:
                        yield Chain(budget, dataset, strategy, seed)

    def recipes(self) -> list[str]:
        """The recipes of the strategies that run."""
        return list(dict.fromkeys(self.study.strategies[name].recipe for name in self.study.run.strategies))

    def data(self, dataset: str) -> str:
        """Folder of a prepared data set."""
        return str(PurePosixPath(self.study.data_dir) / dataset)

    def start(self, budget: str, dataset: str, seed: int | str) -> str:
        """Folder of what all strategies of a seed share."""
        return str(self.root / budget / dataset / "start" / f"seed{seed}")

    def round(self, chain: Chain, number: int) -> str:
        """Folder of a strategy's round: its training (from round 2 on), its scores, the next round's labels."""
        return str(self.root / chain.budget / chain.dataset / chain.strategy / f"seed{chain.seed}" / f"round{number}")

    def labels(self, chain: Chain, number: int) -> str:
        """The labelled set that a round trains on."""
        if number == 1:
            return f"{self.start(chain.budget, chain.dataset, chain.seed)}/labeled.csv"
        return f"{self.round(chain, number - 1)}/next_labeled.csv"

    def trained(self, chain: Chain, number: int) -> str:
        """Folder of the checkpoint and the measurements of a round."""
        if number == 1:
            recipe = self.study.strategies[chain.strategy].recipe
            return f"{self.start(chain.budget, chain.dataset, chain.seed)}/{recipe}"
        return self.round(chain, number)

    def kept_checkpoints(self) -> str:
        """A regular expression for the rounds whose checkpoints stay, as ``<budget>/<dataset>/.../round<r>/``."""
        if self.study.keep_checkpoints:
            return ""
        last = (
            f"{budget}/{dataset}/[^/]+/seed[0-9]+/round{self.rounds(budget, dataset)}/"
            for budget in self.study.run.budgets
            for dataset in self.datasets
        )
        return "|".join(last)

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
        return json.dumps({**values, "recipes": recipes, "strategies": strategies, "datasets": datasets})

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


def unavailable_datasets(study: Study) -> dict[str, str]:
    """The study's data sets that are neither prepared nor to be had, with the reason. Asks the network at most once a
    data set, all at a time.
    """

    def reason(name: str) -> str | None:
        row = study.datasets[name]
        if (Path(study.data_dir) / name / "dataset.json").exists():
            return None
        source = datasets.load(row.source)
        return source.unavailable(source.options.model_validate(row.options), Path(study.data_dir) / "downloads")

    with ThreadPoolExecutor() as pool:
        reasons = zip(study.run.datasets, pool.map(reason, study.run.datasets), strict=True)
        return {name: why for name, why in reasons if why is not None}


def one_of(names: list[str]) -> str:
    """A regular expression that matches any of some names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, sort_keys=True)
