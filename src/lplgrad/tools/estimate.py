"""Estimate what a study costs before it is run: the rates of a machine times the images of the study."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from lplgrad import acquisition
from lplgrad.machine.errors import UserError
from lplgrad.rounds.checkpoints import build, tensors_of
from lplgrad.rounds.pool import TEST_IMAGES
from lplgrad.study.availability import check_prepared_datasets
from lplgrad.study.layout import Layout, Trial
from lplgrad.study.reading import read_study
from lplgrad.study.settings import BackboneRow, RecipeRow
from lplgrad.tools.rates import ANY, Rates, key, measure_rates, rate, read_rates, size_of

FLOAT = 4  # bytes


def run(arguments: argparse.Namespace) -> None:
    """Multiply rates by the images of a study and print the costs."""
    if arguments.measure == (arguments.rates is not None):
        raise UserError("give either --rates or --measure")
    study = read_study(arguments.files)
    check_prepared_datasets(study)
    layout = Layout(study)
    rates = measure_rates(layout) if arguments.measure else read_rates(arguments.rates)
    costs = estimate(layout, rates)
    print(
        f"{'budget':10} {'data set':12} {'trainings':>9} {'image-epochs':>14} {'training h':>11} {'queries h':>10}"
        f" {'starting h':>10} {'GB':>7}"
    )
    for cost in costs:
        hours = [value / 3600 for value in (cost.training_seconds, cost.query_seconds, cost.start_seconds)]
        print(
            f"{cost.budget:10} {cost.dataset:12} {cost.trainings:9,} {cost.image_epochs:14,}"
            f" {hours[0]:11,.2f} {hours[1]:10,.2f} {hours[2]:10,.2f} {cost.final_bytes / 1e9:7.2f}"
        )
    total = sum(cost.training_seconds + cost.query_seconds + cost.start_seconds for cost in costs) / 3600
    longest = max(cost.longest_seconds for cost in costs) / 3600
    print(f"\nimage-epochs    {sum(cost.image_epochs for cost in costs):,}")
    print(f"jobs            {sum(cost.trainings + cost.queries for cost in costs):,} trainings and queries")
    print(f"hours           {total:,.2f} one job after another; those of a GPU where the rates are a GPU's")
    print(f"at least        {max(total / arguments.jobs, longest):,.2f} h with {arguments.jobs} at a time")
    print(f"disk at the end {sum(cost.final_bytes for cost in costs) / 1e9:,.2f} GB of results")
    print(f"disk at most    {peak_bytes(costs, arguments.jobs) / 1e9:,.2f} GB with temporary checkpoints")
    print(f"data sets       {data_bytes(layout) / 1e9:,.2f} GB, without downloads")


@dataclass
class Cost:
    """What one data set costs in one budget, over all its strategies and seeds."""

    budget: str
    dataset: str
    trainings: int = 0
    queries: int = 0
    image_epochs: int = 0  # images that training passes through the model, counted once an epoch
    training_seconds: float = 0  # with the test after it
    query_seconds: float = 0  # with the test images that are scored after a query
    start_seconds: float = 0  # of starting jobs
    longest_seconds: float = 0  # of the longest trial, whose rounds wait for each other
    final_bytes: int = 0  # on disk when all is done
    checkpoint_bytes: int = 0  # of the largest checkpoint


def estimate(layout: Layout, rates: Rates) -> list[Cost]:
    """Estimate the cost of every budget and data set, as if no trial stopped at its target accuracy.

    Raise UserError if a rate is missing, or the size of a data set is not known yet.
    """
    panels = groupby(layout.trials(), lambda trial: (trial.budget, trial.dataset))
    return [_cost(layout, list(trials), rates) for _, trials in panels]


def _cost(layout: Layout, trials: list[Trial], rates: Rates) -> Cost:
    study, cost = layout.study, Cost(trials[0].budget, trials[0].dataset)
    row, size = study.datasets[cost.dataset], size_of(study, cost.dataset)
    budget, shown = row.budgets[cost.budget], layout.shown_models()
    seconds_of = partial(rate, rates, key(row.backbone, size, study.compute))
    start = rate(rates, ANY, "start a job")
    shape = (size.channels, size.side, size.side)
    checkpoints = {
        name: checkpoint_bytes(row.backbone, study.recipes[name], shape, size.classes) for name in layout.recipes()
    }
    trained: set[str] = set()
    for trial in trials:
        strategy = study.strategies[trial.strategy]
        recipe = study.recipes[strategy.recipe]
        cost.checkpoint_bytes = max(cost.checkpoint_bytes, checkpoints[strategy.recipe])
        alone = 0.0
        for number in range(1, budget.rounds + 1):
            labels = budget.bought(number)
            seconds = labels * row.training.epochs * seconds_of(f"train {recipe.label}")
            seconds += size.test * seconds_of("predict")
            alone += seconds + start
            folder = layout.trained(trial, number)
            if folder not in trained:
                trained.add(folder)
                cost.trainings += 1
                cost.image_epochs += labels * row.training.epochs
                cost.training_seconds += seconds
                cost.start_seconds += start
                cost.final_bytes += size.test * size.classes * FLOAT
                if number in (1, budget.rounds, *shown.get(trial, [])) or study.keep_checkpoints:
                    cost.final_bytes += checkpoints[strategy.recipe]
            if number < budget.rounds:
                function, needs = acquisition.registry.load(strategy.acquisition), strategy.needs
                subset = budget.subset or size.pool - labels
                tests = min(size.test, TEST_IMAGES) if function.alone else 0
                seconds = 0.0
                if "gradient_norms" in needs:
                    seconds = (subset + tests) * seconds_of("gradient norms")
                elif needs:
                    seconds = (subset + tests) * seconds_of("predict")
                    if "labeled:features" in needs:
                        seconds += labels * seconds_of("predict")
                        seconds += subset * budget.bought(number + 1) * rate(rates, ANY, "k-center")
                alone += seconds + start
                cost.queries += 1
                cost.query_seconds += seconds
                cost.start_seconds += start
                # scores.csv, next_labeled.csv and test_scores.csv
                cost.final_bytes += 36 * subset + 11 * budget.bought(number + 1) + 25 * tests
        cost.longest_seconds = max(cost.longest_seconds, alone)
    return cost


def checkpoint_bytes(backbone: BackboneRow, recipe: RecipeRow, shape: Sequence[int], classes: int) -> int:
    """Count the bytes of a checkpoint, except for its header of a few kB."""
    return sum(tensor.nbytes for tensor in tensors_of(build(backbone, recipe, shape, classes)).values())


def peak_bytes(costs: Iterable[Cost], jobs: int) -> int:
    """Estimate the most on disk at any time: a job writes a checkpoint, and its progress holds weights and momentum."""
    costs = list(costs)
    return sum(cost.final_bytes for cost in costs) + jobs * 3 * max(cost.checkpoint_bytes for cost in costs)


def data_bytes(layout: Layout) -> int:
    """Estimate the bytes of the prepared data sets, without downloads."""
    sizes = [size_of(layout.study, name) for name in layout.datasets]
    return sum((size.pool + size.test) * (size.side**2 * size.channels + 8) for size in sizes)
