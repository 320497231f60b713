"""``lplgrad start``: the labels of round 1."""

from __future__ import annotations

import argparse

import numpy as np

from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.rounds.chosen_start import choose_start
from lplgrad.rounds.files import write_labeled
from lplgrad.rounds.oracle import SimulatedOracle
from lplgrad.rounds.pool import LabeledSet, draw_start
from lplgrad.study.budgets import Budget, pool_problem
from lplgrad.study.validation import parse


def run(arguments: argparse.Namespace) -> None:
    """Draw or choose examples of the pool, ask the oracle for their labels, and write these."""
    data = open_dataset(arguments.data)
    examples = len(data.splits["train"].inputs)
    if arguments.labels is not None:
        values = {"query_size": arguments.query_size, "candidates": arguments.candidates or "all"}
        values |= {"start": {"size": arguments.size}, "labels": arguments.labels}
        budget = parse(Budget, values, "the budget")
        if unfit := budget.labels_problem():
            raise UserError(f"the budget: {unfit}")
        problem = pool_problem(budget, examples)
        if problem is not None:
            raise UserError(f"{arguments.data}: {problem[0]}: {problem[1]}")
    oracle, size = SimulatedOracle(data), arguments.size or arguments.query_size
    if any(arguments.settings):  # Snakemake writes no settings as an empty word
        if arguments.draw != "uniform":
            raise UserError(f"--draw: {arguments.draw} has no effect, because --settings choose; remove one of them")
        first = choose_start(data, size, arguments.seed, arguments.settings, arguments.jobs_per_gpu)
    else:
        # Which classes the examples have, nobody knows before labelling: a stratified start is a simulation.
        classes = oracle.answer(np.arange(examples)) if arguments.draw == "stratified" else None
        first = draw_start(examples, size, arguments.seed, classes)
    write_labeled(arguments.output, LabeledSet().extended(first, oracle.answer(first), 1))
