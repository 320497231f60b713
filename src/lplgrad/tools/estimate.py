"""Estimate what a study costs before it is run: the rates of a machine times the steps and examples of the study."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import numpy as np

from lplgrad import acquisition
from lplgrad.acquisition import Acquisition
from lplgrad.recipes import Draw, Learner
from lplgrad.rounds.checkpoints import build, build_learner, tensors_of
from lplgrad.rounds.optimizers import learning_rate, optimizer_of
from lplgrad.rounds.pool import TEST_EXAMPLES
from lplgrad.rounds.resume import progress_tensors
from lplgrad.study.availability import check_input_files, check_pool, check_prepared_datasets
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_configuration
from lplgrad.study.settings import BackboneRow, RecipeRow, Study, Training
from lplgrad.tools.rates import ANY, CANDIDATES, CHOSEN, LABELED, START, Rates, measure_rates, rate, read_rates
from lplgrad.tools.starting import jobs_at_a_time
from lplgrad.tools.work import Size, Work, random_examples, sizes_of

FLOAT = 4  # bytes


def run(arguments: argparse.Namespace) -> None:
    """Measure or read the rates of a machine, multiply them by the work of a study and print the costs."""
    study = read_configuration(arguments.files)
    check_prepared_datasets(study)
    layout = Layout(study)
    sizes = sizes_of(layout)
    for name, size in sizes.items():
        check_pool(study, name, size.pool)
    if arguments.rates is None:
        check_input_files(study)
        rates: Rates = measure_rates(layout, sizes=sizes)
    else:
        rates = read_rates(arguments.rates)
    costs = estimate(layout, rates, sizes)
    total = sum(cost.training_seconds + cost.query_seconds + cost.start_seconds for cost in costs)
    unit, seconds = ("h", 3600) if total >= 3600 else ("min", 60)
    jobs, why = (arguments.jobs, "--jobs") if arguments.jobs else jobs_at_a_time(study)
    print(
        f"{'budget':10} {'data set':12} {'trainings':>9} {'steps':>14} {f'training {unit}':>12} {f'queries {unit}':>11}"
        f" {f'starting {unit}':>12} {'GB':>7}"
    )
    for cost in costs:
        times = [value / seconds for value in (cost.training_seconds, cost.query_seconds, cost.start_seconds)]
        print(
            f"{cost.budget:10} {cost.dataset:12} {cost.trainings:9,} {cost.steps:14,}"
            f" {times[0]:12,.2f} {times[1]:11,.2f} {times[2]:12,.2f} {cost.final_bytes / 1e9:7.2f}"
        )
    longest = max(cost.longest_seconds for cost in costs)
    print(f"\nsteps           {sum(cost.steps for cost in costs):,} of training, also within queries")
    print(f"jobs            {sum(cost.trainings + cost.queries for cost in costs):,} trainings and queries")
    print(f"time            {total / seconds:,.2f} {unit} one job after another; on a GPU where the rates are a GPU's")
    print(f"at least        {max(total / jobs, longest) / seconds:,.2f} {unit} with {jobs} at a time: {why}")
    print(f"disk at the end {sum(cost.final_bytes for cost in costs) / 1e9:,.2f} GB of results")
    print(f"disk at most    {peak_bytes(costs, jobs) / 1e9:,.2f} GB with temporary checkpoints and progress")
    print(f"data sets       {data_bytes(layout, sizes) / 1e9:,.2f} GB, without downloads")
    print("\nassumed         every trial spends its budget; where the number of steps depends on predictions, as with")
    print("                pseudo-labels, it is the highest possible; every step has a whole mini-batch, and costs as")
    print("                much as at the start of a training; starting: the jobs' own starts and imports")
    chosen = [name for name in study.run.strategies if _function(study, name).choose is not None]
    if chosen:
        print(
            f"                the choice of {', '.join(chosen)} takes time in proportion to candidates x (labelled +\n"
            f"                chosen); it is measured with {CANDIDATES:,} x ({LABELED} + {CHOSEN})"
        )
    own = [name for name in study.run.strategies if _function(study, name).measures]
    if own:
        print(f"                what a query of {', '.join(own)} finds once, such as a mask of weights, is not counted")
    for name, size in sizes.items():
        if not size.pool_is_known:
            print(f"                the pool of {name} has {size.pool:,} examples, as many as its budgets need")


def _function(study: Study, strategy: str) -> Acquisition:
    return acquisition.registry.load(study.strategies[strategy].acquisition)


@dataclass
class Cost:
    """What one data set costs in one budget, over all its strategies and seeds."""

    budget: str
    dataset: str
    trainings: int = 0
    queries: int = 0
    steps: int = 0  # of training, also within queries
    training_seconds: float = 0  # with the test after it
    query_seconds: float = 0  # with the test examples that are scored after a query
    start_seconds: float = 0  # of starting jobs
    longest_seconds: float = 0  # of the longest trial, whose rounds wait for each other
    final_bytes: int = 0  # on disk when all is done
    temporary_bytes: int = 0  # the most that a job has on disk beside that


def estimate(layout: Layout, rates: Rates, sizes: Mapping[str, Size] | None = None) -> list[Cost]:
    """Estimate the cost of every budget and data set, as if no trial stopped at its target accuracy.

    Raise UserError if a rate is missing, or the size of a data set is not known yet.
    """
    panels = groupby(layout.trials(), lambda trial: (trial.budget, trial.dataset))
    sizes = sizes or sizes_of(layout)
    return [_cost(layout, list(trials), rates, sizes) for _, trials in panels]


class Trained:
    """A learner on the meta device, in training: how many steps it takes, and how large its files are."""

    def __init__(self, learner: Learner, training: Training) -> None:
        self.learner, self.training = learner, training
        learner.begin(training, lambda network: optimizer_of(training, network.parameters()), nullcontext)
        self.checkpoint_bytes = sum(tensor.nbytes for tensor in tensors_of(learner).values())
        self.progress_bytes = sum(tensor.nbytes for tensor in progress_tensors(learner).values())
        self.known: dict[Counts, int] = {}

    def steps(self, counts: Counts) -> int:
        """Return the number of steps of a training."""
        if counts not in self.known:
            draw, total = counts.draw(), 0
            for done in range(self.learner.stages * self.training.epochs):
                draw.stage, epoch = divmod(done, self.training.epochs)
                draw.epoch, draw.progress = epoch, epoch / self.training.epochs
                draw.rate = learning_rate(self.training, epoch)
                steps = self.learner.steps(cast(Draw, draw))
                if not steps:
                    break
                total += steps
            self.known[counts] = total
        return self.known[counts]


@dataclass(frozen=True)
class Counts:
    """How many examples a training has, as ``recipes.Draw``."""

    labeled: int
    newest: int
    unlabeled: int

    def draw(self) -> _Draw:
        """Return what the number of steps may depend on."""
        return _Draw(self.labeled, self.newest, self.unlabeled)


@dataclass
class _Draw:
    labeled_count: int
    newest_count: int
    unlabeled_count: int
    stage: int = 0
    epoch: int = 0
    progress: float = 0.0
    rate: float = 0.0


def _cost(layout: Layout, trials: list[Trial], rates: Rates, sizes: Mapping[str, Size]) -> Cost:
    study, cost = layout.study, Cost(trials[0].budget, trials[0].dataset)
    row, size = study.datasets[cost.dataset], sizes[cost.dataset]
    budget, shown = row.budgets[cost.budget], layout.shown_models()
    start = rate(rates, (ANY, START))
    works = {name: Work(study, cost.dataset, size, study.strategies[name]) for name in study.run.strategies}
    learners = {
        work.strategy.recipe: Trained(build(row.backbone, work.recipe, work.shape, size.classes), row.training)
        for work in works.values()
    }
    sides = {name: side for name, work in works.items() if (side := _side_of(work)) is not None}
    trained: set[str] = set()
    for trial in trials:
        work, side = works[trial.strategy], sides.get(trial.strategy)
        learner, function = learners[work.strategy.recipe], acquisition.registry.load(work.strategy.acquisition)
        # A job has the checkpoint that it reads, and two progress files while it replaces one by the next.
        progress = max(learner.progress_bytes, side.progress_bytes if side else 0)
        cost.temporary_bytes = max(cost.temporary_bytes, learner.checkpoint_bytes + 2 * progress)
        alone = 0.0
        for number in range(1, budget.rounds + 1):
            labels = budget.bought(number)
            newest = labels - budget.bought(number - 1) if number > 1 else labels
            counts = Counts(labels, newest, size.pool - labels)
            steps = learner.steps(counts)
            seconds = steps * rate(rates, work.train) + size.test * rate(rates, work.predict)
            alone += seconds + start
            folder = layout.trained(trial, number)
            if folder not in trained:
                trained.add(folder)
                cost.trainings += 1
                cost.steps += steps
                cost.training_seconds += seconds
                cost.start_seconds += start
                cost.final_bytes += size.test * size.classes * FLOAT
                if number in (1, budget.rounds, *shown.get(trial, [])) or study.keep_checkpoints:
                    cost.final_bytes += learner.checkpoint_bytes
            if number < budget.rounds:
                subset = budget.subset or size.pool - labels
                tests = min(size.test, TEST_EXAMPLES) if function.alone else 0
                examples = {"candidates": subset + tests, "labeled": labels, "pool": size.pool}
                seconds = sum(
                    count * rate(rates, work.measuring(of)) for of, count in examples.items() if work.needs(of)
                )
                if function.choose is not None:
                    chosen = budget.bought(number + 1) - labels
                    seconds += subset * (labels + chosen) * rate(rates, work.choice)
                if side is not None:
                    steps = side.steps(counts)
                    cost.steps += steps
                    seconds += steps * rate(rates, work.side)
                alone += seconds + start
                cost.queries += 1
                cost.query_seconds += seconds
                cost.start_seconds += start
                # scores.csv, next_labeled.csv and test_scores.csv
                cost.final_bytes += 36 * subset + 11 * budget.bought(number + 1) + 25 * tests
        cost.longest_seconds = max(cost.longest_seconds, alone)
    return cost


def _side_of(work: Work) -> Trained | None:
    """Return the learner of an acquisition function's own."""
    function, training = acquisition.registry.load(work.strategy.acquisition), work.side_training
    if function.side is None or training is None:
        return None
    options = work.strategy.checked_options
    return Trained(build_learner(function.side, options, work.row.backbone, work.shape, work.size.classes), training)


def checkpoint_bytes(backbone: BackboneRow, recipe: RecipeRow, shape: Sequence[int], classes: int) -> int:
    """Count the bytes of a checkpoint, except for its header of a few kB."""
    return sum(tensor.nbytes for tensor in tensors_of(build(backbone, recipe, shape, classes)).values())


def peak_bytes(costs: Iterable[Cost], jobs: int) -> int:
    """Estimate the most on disk at any time, with what running jobs have written and do not keep."""
    costs = list(costs)
    return sum(cost.final_bytes for cost in costs) + jobs * max(cost.temporary_bytes for cost in costs)


def data_bytes(layout: Layout, sizes: Mapping[str, Size]) -> int:
    """Estimate the bytes of the prepared data sets, without downloads."""
    total = 0
    for name, size in sizes.items():
        example = random_examples(layout.study.datasets[name], size.shape, 1, np.random.default_rng(0))
        total += (size.pool + size.test) * (example.nbytes + 8)
    return total
