"""Draw the labels of round 1: images of the training pool, uniformly at random."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad start --data data/digits --query-size 25 --seed 1 --output labeled.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of a prepared data set")
    parser.add_argument("--query-size", type=int, required=True, help="how many images are labelled")
    parser.add_argument(
        "--candidates", type=int, metavar="S", help="of a query; only to tell early if they are too many"
    )
    parser.add_argument("--labels", type=int, metavar="A", help="in the end; only to tell early if they are too many")
    parser.add_argument("--seed", type=int, required=True, help="seed of the trial")
    parser.add_argument("--output", type=Path, required=True, metavar="CSV", help="the labelled set to write")


def run(arguments: argparse.Namespace) -> None:
    """Draw and write the labels."""
    from lplgrad.arrays import open_dataset
    from lplgrad.artifacts import write_labeled
    from lplgrad.commands.common import check_positive, check_seed
    from lplgrad.errors import UserError
    from lplgrad.pool import initial_labels
    from lplgrad.settings import Budget, pool_problem
    from lplgrad.validation import parse

    check_seed(arguments.seed)
    check_positive("--query-size", arguments.query_size)
    images = len(open_dataset(arguments.data).train.images)
    if arguments.labels is not None:
        values = {"query_size": arguments.query_size, "candidates": arguments.candidates or "all"}
        budget = parse(Budget, {**values, "labels": arguments.labels}, "the budget")
        problem = pool_problem(budget, images)
        if problem is not None:
            raise UserError(f"{arguments.data}: {problem[0]}: {problem[1]}")
    write_labeled(arguments.output, initial_labels(images, arguments.query_size, arguments.seed))
