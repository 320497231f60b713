"""``lplgrad start``: the labels of round 1."""

from __future__ import annotations

import argparse

import numpy as np

from lplgrad import acquisition
from lplgrad.acquisition import Candidates
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.machine.errors import UserError
from lplgrad.machine.leases import lease_gpu
from lplgrad.rounds.files import write_labeled
from lplgrad.rounds.oracle import SimulatedOracle
from lplgrad.rounds.pool import Indices, LabeledSet, draw_start
from lplgrad.rounds.representation import representation_of
from lplgrad.study.jobs import StartJob
from lplgrad.study.settings import REPRESENTATION, Budget, pool_problem
from lplgrad.study.validation import parse, parse_settings


def run(arguments: argparse.Namespace) -> None:
    """Draw or choose examples of the pool, ask the oracle for their labels, and write these."""
    data = open_dataset(arguments.data)
    examples = len(data.splits["train"].inputs)
    if arguments.labels is not None:
        values = {"query_size": arguments.query_size, "candidates": arguments.candidates or "all"}
        values |= {"start": {"size": arguments.size}, "labels": arguments.labels}
        budget = parse(Budget, values, "the budget")
        problem = pool_problem(budget, examples)
        if problem is not None:
            raise UserError(f"{arguments.data}: {problem[0]}: {problem[1]}")
    oracle, size = SimulatedOracle(data), arguments.size or arguments.query_size
    if any(arguments.settings):  # Snakemake writes no settings as an empty word
        if size > examples:
            raise UserError(f"start: {size} examples are to be labelled, but the pool has {examples}")
        first = _chosen(arguments, data, size)
    else:
        # Which classes the examples have, nobody knows before labelling: a stratified start is a simulation.
        classes = oracle.answer(np.arange(examples)) if arguments.draw == "stratified" else None
        first = draw_start(examples, size, arguments.seed, classes)
    write_labeled(arguments.output, LabeledSet().extended(first, oracle.answer(first), 1))


def _chosen(arguments: argparse.Namespace, data: DatasetArrays, size: int) -> Indices:
    """Let an acquisition function choose from the representation of the pool."""
    settings = parse_settings(StartJob, arguments.settings)
    name = settings.acquisition
    function = acquisition.registry.load(name)
    options = parse(function.options, settings.options, "--settings: options")
    needs = set(function.needs(options))
    if not needs <= REPRESENTATION:
        raise UserError(f"--settings: {name} needs {min(needs - REPRESENTATION)}, and before round 1 there is no model")
    found = representation_of(data, settings.features)
    if found is None:
        raise UserError(f"--settings: {name} needs a representation of the pool; name its file as features")
    if settings.compute.device != "cpu":
        lease_gpu(arguments.jobs_per_gpu)  # before CUDA starts
    from lplgrad.machine import devices  # imports torch, which a random draw does without

    device = devices.set_up(settings.compute)
    measured = {
        "representation": devices.to_tensor(found, device),
        "labeled:representation": devices.to_tensor(found[:0], device),
    }
    candidates = Candidates(np.arange(len(found)), arguments.seed, 0, size, measured, len(data.classes))
    return candidates.indices[acquisition.choice_of(function, candidates, options).picks]
