"""How fast a machine is at the tasks of a study, see ``Work``: rates that a file holds, or that are measured here.

A few steps of the recipe's own loop are timed, and all that the acquisition function asks of a query, on random
examples of the data set's shape.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lplgrad import acquisition, modalities, recipes
from lplgrad.acquisition import Candidates
from lplgrad.machine import devices
from lplgrad.machine.devices import to_tensor
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.machine.timing import Stopwatch
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import build, build_learner, first_weights, to_device
from lplgrad.rounds.draws import Draws
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.loop import train
from lplgrad.rounds.needs import measure
from lplgrad.study.layout import Layout
from lplgrad.study.settings import Training
from lplgrad.tools.starting import start_seconds
from lplgrad.tools.work import Size, Work, random_examples, sizes_of, works

# Seconds by (network, task), see ``Work``, and those to start a job.
Rates = Mapping[tuple[str, str], float]
ANY, START = "any model", "start a job"
# The examples that the choice of a set is measured on, the labelled ones among them, and how many are chosen.
CANDIDATES, LABELED, CHOSEN = 2_000, 500, 100
LONGEST = 10.0  # seconds for one rate, after which no further repeat begins


def rate(rates: Rates, task: tuple[str, str]) -> float:
    """Look up seconds; raise UserError if the rate is missing."""
    try:
        return rates[task]
    except KeyError:
        raise UserError(
            f"no rate for {task[1]!r} of {task[0]}; measure the rates of this study on the other machine, or leave out "
            "--rates to measure them here"
        ) from None


def read_rates(path: Path) -> Rates:
    """Read the rows of the benchmark ``rates`` from a file that ``python -m benchmarks`` wrote."""
    try:
        text = path.read_bytes().decode()
        rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("benchmark") == "rates"]
        rates = {(row["setting"], row["case"]): float(row["median"]) for row in rows}
    except (KeyError, TypeError, ValueError, csv.Error):
        raise UserError(f"{path}: not a table of measured rates") from None
    if rates and not text.endswith("\n"):
        raise UserError(f"{path}: cut off within its last line; measure the rates again")
    for (of, task), seconds in rates.items():
        if not 0 < seconds < math.inf:
            raise UserError(f"{path}: {task!r} of {of} takes {seconds} seconds; measure the rates again")
    if not rates:
        raise UserError(f"{path}: no rates in it; python -m benchmarks --only rates measures them")
    return rates


def measure_rates(
    layout: Layout, repeats: int = 3, sizes: Mapping[str, Size] | None = None
) -> dict[tuple[str, str], float]:
    """Measure the rates of a study here: medians over ``repeats`` calls of each task, after one to warm up.

    Raises:
        UserError: a file that an option names is missing, the study's device is, or memory is short.
    """
    rates = dict[tuple[str, str], float]()
    device = devices.set_up(layout.study.compute)
    for work in works(layout, sizes or sizes_of(layout)):
        for task, (case, count) in Measuring(work, device).cases().items():
            if task not in rates:
                say(f"measuring: {task[0]}: {task[1]}")
                try:
                    rates[task] = median_seconds(case(), device, repeats) / count
                except RuntimeError as error:
                    if not devices.lacks_memory(error):
                        raise
                    raise UserError(f"datasets.{work.dataset}: out of memory in {task[1]!r}; lower its size") from None
    rates[ANY, START] = start_seconds(repeats, device)
    return rates


Case = Callable[[], Callable[[], object]]  # prepares what is timed, and returns it


class Measuring:
    """Times the work of a data set with a strategy, on random examples that are on the device as in a job."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device
        self.function = acquisition.registry.load(work.strategy.acquisition)
        modality = modalities.registry.load(work.row.modality)
        augmentation = modality.augmentation.model_validate(work.row.augmentation)
        channels = work.size.shape[-1]
        self.view = modality.view(augmentation, [0.5] * channels, [0.25] * channels, work.size.shape, device)
        self.steps = 20 if device.type == "cuda" else 1  # timed at once
        # What a pass of an evaluation takes; on a processor the time is in proportion, so fewer do.
        self.count = self.view.batch_size() if device.type == "cuda" else min(64, self.view.batch_size())
        self.draw = np.random.default_rng(0)

    def cases(self) -> dict[tuple[str, str], tuple[Case, int]]:
        """What is timed, by task, and the number of units that a call does."""
        work, found = self.work, dict[tuple[str, str], tuple[Case, int]]()
        found[work.train] = partial(self.training, work.row.training, self.learner), self.steps
        found[work.predict] = self.predicting, self.count
        if work.side_training is not None:
            found[work.side] = partial(self.training, work.side_training, self.side), self.steps
        for of in ("candidates", "labeled", "pool"):
            if work.needs(of):
                found[work.measuring(of)] = partial(self.querying, of), self.count
        if self.function.choose is not None:
            found[work.choice] = self.choosing, CANDIDATES * (LABELED + CHOSEN)
        return found

    def stored(self, count: int) -> npt.NDArray[Any]:
        """Random examples as they are stored, shape (count, ...)."""
        return random_examples(self.work.row, self.work.size.shape, count, self.draw)

    def learner(self) -> Learner:
        """Return a learner of the recipe, as in a round whose networks are new."""
        work = self.work

        def new() -> Learner:
            return self._ready(build(work.row.backbone, work.recipe, work.shape, work.size.classes))

        learner = new()
        if recipes.registry.load(work.recipe.trains).reads_previous(work.recipe.checked_options):
            learner.previous = new()
        return learner

    def side(self) -> Learner:
        """Return the acquisition function's own learner."""
        work = self.work
        assert self.function.side is not None
        options = work.strategy.checked_options
        return self._ready(build_learner(self.function.side, options, work.row.backbone, work.shape, work.size.classes))

    def _ready(self, learner: Learner) -> Learner:
        return to_device(first_weights(learner, self.work.row.backbone, partial(stream, 1)), self.device)

    def training(self, settings: Training, learner_of: Callable[[], Learner]) -> Callable[[], object]:
        """Return what takes ``self.steps`` steps of training, of whole mini-batches, at a rate that keeps it finite."""
        batch, precision = self.work.batch(settings), self.work.study.compute.precision
        count, learner = batch * self.steps, learner_of()
        learner.steps = lambda draw: self.steps  # type: ignore[method-assign]
        pool, half = self.stored(2 * count), np.arange(2 * count)
        labels = to_tensor(self.draw.integers(0, self.work.size.classes, count), self.device)
        draws = Draws(
            to_tensor(pool[:count], self.device),
            labels,
            batch,
            self.view,
            partial(stream, 1),
            pool=pool,
            unlabeled=half[count:],
            labeled=half[:count],
        )
        # More epochs than are ever timed; those of a longer training are alike at its start.
        epochs = {"epochs": max(settings.epochs, 1_000), "learning_rate": 1e-6, "batch_size": batch}
        loop = train(learner, draws, settings.model_copy(update=epochs), precision)

        def epoch() -> object:
            with devices.tf32(precision == "tf32"):
                return next(loop)

        return epoch

    def batch(self) -> Tensor:
        """Return network input as a query has it, shape (B, ...)."""
        return self.view.plain(to_tensor(self.stored(self.count), self.device))

    def predicting(self) -> Callable[[], object]:
        """Return what predicts a batch, as a test does."""
        learner, inputs = self.learner(), self.batch()
        return lambda: predict(learner, [inputs])

    def querying(self, of: str) -> Callable[[], object]:
        """Return what measures a batch as a query does, and scores it if each candidate has a score."""
        measured = self._measurer(of)
        beside = any(need.startswith(("labeled:", "pool:")) for need in self.work.strategy.needs)
        if of != "candidates" or self.function.score is None or self.function.choose is not None or beside:
            return measured
        options = self.work.strategy.checked_options
        return lambda: acquisition.scores_of(self.function, self._candidates(measured(), self.count), options)

    def _measurer(self, of: str) -> Callable[[], dict[str, Any]]:
        """Return what measures the needs of a batch.

        All calls have the same arguments of the needs. So what an argument keeps from the first batch of a query, such
        as the mask of ``fisher_mask``, is found in the first call alone, which is not timed.
        """
        work, needs, inputs = self.work, self.work.needs(of), self.batch()
        learner, side = self.learner(), None if work.side_training is None else self.side()
        for network in [*learner.networks.values(), *(side.networks.values() if side is not None else [])]:
            network.eval()

        def of_query(purpose: Purpose | str) -> np.random.Generator:
            return stream(1, purpose)

        at_once = self.view.batch_size(norms=True)
        return lambda: measure(self.function, needs, learner, side, lambda: [inputs], at_once, of_query)

    def choosing(self) -> Callable[[], object]:
        """Return what chooses from random candidates, whose quantities have the shapes of the measured ones."""
        measured: dict[str, Any] = {}
        for of, count in (("candidates", CANDIDATES), ("labeled", LABELED), ("pool", CANDIDATES + LABELED)):
            prefix = "" if of == "candidates" else f"{of}:"
            if needs := self.work.needs(of):
                found = self._measurer(of)()
                measured |= {f"{prefix}{need}": self._random(found[need], count) for need in needs}
            if f"{prefix}representation" in self.work.strategy.needs:
                given = self.work.represented
                like = measured[f"{prefix}features"] if given is None else torch.empty(1, given, device=self.device)
                measured[f"{prefix}representation"] = self._random(like, count)
        if "labeled:labels" in self.work.strategy.needs:
            measured["labeled:labels"] = to_tensor(self.draw.integers(0, self.work.size.classes, LABELED), self.device)
        candidates, options = self._candidates(measured, CANDIDATES), self.work.strategy.checked_options

        def choose() -> object:
            with redirect_stderr(io.StringIO()):  # what a function remarks on random candidates means nothing
                return acquisition.choice_of(self.function, candidates, options)

        return choose

    def _random(self, like: Any, count: int) -> Any:
        """Return ``count`` rows like those of a quantity; of one that consists of several, such as norms, each."""
        if isinstance(like, Tensor):
            rows = torch.from_numpy(self.draw.standard_normal((count, *like.shape[1:]))).to(like)
            return rows.abs() if bool((like >= 0).all()) else rows
        if isinstance(like, np.ndarray):
            return self.draw.standard_normal((count, *like.shape[1:])).astype(like.dtype)
        if isinstance(like, Mapping):
            return {name: self._random(value, count) for name, value in like.items()}
        if hasattr(like, "__dict__"):
            copy = object.__new__(type(like))
            copy.__dict__.update({name: self._random(value, count) for name, value in vars(like).items()})
            return copy
        return like

    def _candidates(self, measured: dict[str, Any], count: int) -> Candidates:
        return Candidates(np.arange(count), 1, 1, min(CHOSEN, count), measured, self.work.size.classes)


def median_seconds(case: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Measure the median seconds of a call; with one thread on a processor, without waiting for other programs.

    After ``LONGEST`` seconds no further call begins, but there is one after that to warm up.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds: list[float] = []
    watch = Stopwatch(device)
    while len(seconds) < 2 or (len(seconds) <= repeats and watch.seconds() < LONGEST):
        watch.synchronize()
        start = clock()
        case()
        watch.synchronize()
        seconds.append(clock() - start)
    return statistics.median(seconds[1:])
