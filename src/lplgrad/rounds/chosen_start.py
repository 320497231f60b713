"""The labels of round 1, chosen by an acquisition function from a representation of the pool instead of drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lplgrad import acquisition
from lplgrad.acquisition import Candidates
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.errors import UserError
from lplgrad.machine.leases import lease_gpu
from lplgrad.rounds.pool import Indices
from lplgrad.rounds.representation import representation_of
from lplgrad.study.budgets import start_problem
from lplgrad.study.jobs import StartJob
from lplgrad.study.validation import parse, parse_settings


def choose_start(data: DatasetArrays, size: int, seed: int, words: Sequence[str], jobs_per_gpu: int = 1) -> Indices:
    """Choose the examples that are labelled for round 1.

    Args:
        data: the data set.
        size: how many are chosen.
        seed: of the trial.
        words: the settings, a ``StartJob``.
        jobs_per_gpu: how many jobs may share a GPU.

    Returns:
        Positions in the training pool in the order of choice, int64, shape (size,).

    Raises:
        UserError: the function needs more than a representation, there is none, or the pool is too small.
    """
    settings = parse_settings(StartJob, words)
    name = settings.acquisition
    function = acquisition.registry.load(name)
    options = parse(function.options, settings.options, "--settings: options")
    if problem := start_problem(name, options):
        raise UserError(f"--settings: acquisition: {problem}")
    found = representation_of(data, settings.features)
    if found is None:
        raise UserError(f"--settings: {name} needs a representation of the pool; name its file as features")
    if size > len(found):
        raise UserError(f"start: {size} examples are to be labelled, but the pool has {len(found)}")
    if settings.compute.device != "cpu":
        lease_gpu(jobs_per_gpu)  # before CUDA starts
    from lplgrad.machine import devices  # imports torch, which a random draw does without

    device = devices.set_up(settings.compute)
    measured = {
        "representation": devices.to_tensor(found, device),
        "labeled:representation": devices.to_tensor(found[:0], device),
    }
    candidates = Candidates(np.arange(len(found)), seed, 0, size, measured, len(data.classes))
    return candidates.indices[acquisition.choice_of(function, candidates, options).picks]
