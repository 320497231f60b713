"""Draw the labels of round 1: images of the training pool, uniformly at random."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad start --data data/digits --budget '{query_size: 20, labels: 140}' --seed 1 --output labeled.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of a prepared data set")
    parser.add_argument(
        "--budget", required=True, metavar="YAML", help="the annotation budget: query_size, candidates, labels"
    )
    parser.add_argument("--seed", type=int, required=True, help="seed of the trial")
    parser.add_argument("--output", type=Path, required=True, metavar="CSV", help="the labelled set to write")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write the labels, once it is sure that the whole budget fits the pool."""
    from lplgrad.arrays import open_dataset
    from lplgrad.artifacts import write_labeled
    from lplgrad.commands.common import check_seed, parse_settings
    from lplgrad.errors import UserError
    from lplgrad.pool import initial_labels
    from lplgrad.settings import Budget, pool_problem

    check_seed(arguments.seed)
    budget = parse_settings(Budget, arguments.budget, option="--budget")
    images = len(open_dataset(arguments.data).train.images)
    problem = pool_problem(budget, images)
    if problem is not None:
        raise UserError(f"--budget: {problem[0]}: {problem[1]}")
    write_labeled(arguments.output, initial_labels(images, budget.query_size, arguments.seed))
