"""How fast a machine is at a study's own work: rates that are measured here, or that a file holds.

Nothing here knows a recipe, an acquisition function or a source by name. A few steps of the recipe's own loop are
timed, and all that the acquisition function asks of a query, on random examples of the data set's shape.
"""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lplgrad import acquisition, datasets, modalities, recipes
from lplgrad.acquisition import Candidates
from lplgrad.machine import devices, fork_server
from lplgrad.machine.devices import to_tensor
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
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
from lplgrad.study.settings import Dataset, RecipeRow, Strategy, Study, Training

# Seconds by (network, task), see ``Work``, and those to start a job.
Rates = Mapping[tuple[str, str], float]
ANY, START = "any model", "start a job"
# The examples that the choice of a set is measured on, the labelled ones among them, and how many are chosen.
CANDIDATES, LABELED, CHOSEN = 2_000, 500, 100
LONGEST = 10.0  # seconds for one rate, after which no further repeat begins


class Size(NamedTuple):
    """The size of a data set."""

    shape: tuple[int, ...]  # of a stored example, as the modality says
    classes: int
    pool: int
    test: int
    pool_is_known: bool = True  # otherwise the pool has as many examples as its budgets need


def size_of(study: Study, dataset: str) -> Size:
    """Read the size of a prepared data set, or take it from its source.

    Raises:
        UserError: neither knows it.
    """
    row = study.datasets[dataset]
    manifest = Path(study.data_dir) / dataset / "dataset.json"
    if manifest.exists():
        described = read_json(manifest)
        try:
            train, test = (described["splits"][split]["inputs"] for split in ("train", "test"))
            return Size(tuple(map(int, train[1:])), len(described["classes"]), int(train[0]), int(test[0]))
        except (KeyError, TypeError, ValueError, IndexError):
            raise UserError(f"{manifest}: not the description of a data set; prepare it anew") from None
    options = row.checked_options
    found = datasets.registry.load(row.source).size(options, Path(study.data_dir) / "downloads")
    if found is None:
        keys = [key for key in ("image_size", "test_images") if getattr(options, key, 0) is None]
        path = getattr(options, "path", None)
        absent = path is not None and not Path(path).expanduser().exists()
        ways = [f"set {' and '.join(keys)}"] if keys else []
        ways += ["place its files there"] if absent else ["prepare it (add --until prepare to your snakemake command)"]
        where = f" ({path} is not there)" if absent else ""
        raise UserError(f"datasets.{dataset}: its size is not known yet{where}; {', or '.join(ways)}")
    if found.pool is not None:
        return Size(found.shape, found.classes, found.pool, found.test)
    budgets = [row.budgets[name] for name in study.run.budgets]
    least = max(max(one.labels, one.bought(one.rounds - 1) + (one.subset or 0)) for one in budgets)
    return Size(found.shape, found.classes, least, found.test, pool_is_known=False)


def sizes_of(layout: Layout) -> dict[str, Size]:
    """Return the sizes of all data sets of a study, as ``size_of``."""
    return {name: size_of(layout.study, name) for name in layout.datasets}


def random_examples(row: Dataset, shape: Sequence[int], count: int, draw: np.random.Generator) -> npt.NDArray[Any]:
    """Draw examples as they are stored, shape (count, ...): bytes, or floats if the modality refuses bytes."""
    found: npt.NDArray[Any] = draw.integers(0, 256, (count, *shape), dtype=np.uint8)
    if modalities.registry.load(row.modality).problem(found) is not None:
        found = draw.standard_normal((count, *shape), dtype=np.float32)
    return found


class Work(NamedTuple):
    """What one data set has to be done with a strategy, and the names of its rates.

    Each name holds all that the rate depends on, but for the number of classes. The options of a recipe and of an
    acquisition function are part of its label.
    """

    study: Study
    dataset: str
    size: Size
    strategy: Strategy

    @property
    def row(self) -> Dataset:
        """The data set."""
        return self.study.datasets[self.dataset]

    @property
    def recipe(self) -> RecipeRow:
        """How the strategy trains."""
        return self.study.recipes[self.strategy.recipe]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one network input."""
        return modalities.registry.load(self.row.modality).input_shape(self.size.shape)

    @property
    def side_training(self) -> Training | None:
        """The settings of the training within a query, if the acquisition function has a learner of its own."""
        of = acquisition.registry.load(self.strategy.acquisition).side_training
        return None if of is None else of(self.strategy.checked_options)

    @property
    def network(self) -> str:
        """The network, the stored examples that it takes, and the precision."""
        shape = "x".join(map(str, self.size.shape))
        return f"{self.row.backbone.label}, {shape}, {self.study.compute.precision}"

    def step(self, training: Training, label: str) -> tuple[str, str]:
        """A step of training, of a recipe or an acquisition function with a label."""
        kind = modalities.registry.load(self.row.modality).augmentation
        defaults = kind().model_dump()
        changed = [f"{key}: {value}" for key, value in self.row.augmentation.items() if value != defaults[key]]
        how = ", ".join([f"{self.batch(training)} examples", training.optimizer, *changed])
        return self.network, f"step of {label} ({how})"

    def batch(self, training: Training) -> int:
        """Return the number of labelled examples in a step: a mini-batch, or all if there are never as many."""
        return min(training.batch_size, max(self.row.budgets[name].labels for name in self.study.run.budgets))

    @property
    def train(self) -> tuple[str, str]:
        """A step of the recipe."""
        return self.step(self.row.training, self.recipe.label)

    @property
    def side(self) -> tuple[str, str]:
        """A step of the acquisition function's own learner."""
        assert self.side_training is not None
        return self.step(self.side_training, self.strategy.label)

    @property
    def predict(self) -> tuple[str, str]:
        """The prediction for an example."""
        return self.network, f"predict with {self.recipe.label}"

    def needs(self, of: str) -> dict[str, Any]:
        """Return the needs of the strategy for the ``candidates``, the ``labeled`` examples or the whole ``pool``."""
        given = {need: argument for need, argument in self.strategy.needs.items() if need != "labeled:labels"}
        parted = {need: need.partition(":")[0] for need in given}
        if of == "candidates":
            return {need: argument for need, argument in given.items() if parted[need] not in ("labeled", "pool")}
        return {need.removeprefix(f"{of}:"): argument for need, argument in given.items() if parted[need] == of}

    def measuring(self, of: str) -> tuple[str, str]:
        """What the strategy needs for an example, and its score if each example has one."""
        return self.network, f"measure {of} for {self.strategy.label} with {self.recipe.label}"

    @property
    def choice(self) -> tuple[str, str]:
        """The choice of a set, divided by the candidates, and by the labelled examples with those to choose."""
        return self.network, f"choose by {self.strategy.label} with {self.recipe.label}"


def works(layout: Layout, sizes: Mapping[str, Size]) -> Iterator[Work]:
    """Yield the work of each data set and strategy."""
    study = layout.study
    for dataset, size in sizes.items():
        for name in study.run.strategies:
            yield Work(study, dataset, size, study.strategies[name])


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
        if of != "candidates" or self.function.score is None or self.function.choose is not None:
            return measured
        options = self.work.strategy.checked_options
        return lambda: acquisition.scores_of(self.function, self._candidates(measured(), self.count), options)

    def _measurer(self, of: str) -> Callable[[], dict[str, Any]]:
        work, inputs = self.work, self.batch()
        learner, side = self.learner(), None if self.function.side is None else self.side()
        for network in [*learner.networks.values(), *(side.networks.values() if side is not None else [])]:
            network.eval()

        def of_query(purpose: Purpose | str) -> np.random.Generator:
            return stream(1, purpose)

        at_once = self.view.batch_size(norms=True)
        return lambda: measure(self.function, work.needs(of), learner, side, lambda: [inputs], at_once, of_query)

    def choosing(self) -> Callable[[], object]:
        """Return what chooses from random candidates, whose quantities have the shapes of the measured ones."""
        measured: dict[str, Any] = {}
        for of, count in (("candidates", CANDIDATES), ("labeled", LABELED), ("pool", CANDIDATES + LABELED)):
            if needs := self.work.needs(of):
                prefix = "" if of == "candidates" else f"{of}:"
                found = self._measurer(of)()
                measured |= {f"{prefix}{need}": self._random(found[need], count) for need in needs}
        if "labeled:labels" in self.work.strategy.needs:
            measured["labeled:labels"] = to_tensor(self.draw.integers(0, self.work.size.classes, LABELED), self.device)
        candidates, options = self._candidates(measured, CANDIDATES), self.work.strategy.checked_options
        return lambda: acquisition.choice_of(self.function, candidates, options)

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
        return Candidates(np.arange(count), 1, 1, min(CHOSEN, count), measured)


def start_seconds(repeats: int, device: torch.device) -> float:
    """Measure the median seconds to start a job and end it at once: as a fork where Snakemake would fork.

    On a GPU, the start of CUDA and of its libraries is added.
    """
    new = [sys.executable, "-c", "import lplgrad.rounds.training"]
    found = None
    if sys.platform == "linux":
        problems: list[object] = []
        path = fork_server.socket_path()
        try:
            fork_server.start(path, problems.append)
            command = [sys.executable, "-I", "-S", str(fork_server.CLIENT), str(path), "train", "--help"]
            found = None if problems else _seconds(command, repeats, "no fork server")
        finally:
            fork_server.stop()
        if found is None:
            say(
                "warning: the fork server does not start here, so the start of a job is that of a new process"
                + "".join(f" ({problem})" for problem in problems)
            )
    if found is None:
        found = _seconds(new, repeats)
        assert found is not None
    return found + (cuda_seconds(repeats) if device.type == "cuda" else 0.0)


def _seconds(command: list[str], repeats: int, unless: str = "") -> float | None:
    """Return the median seconds of a command, or None if it writes ``unless`` to standard error."""
    seconds = []
    for _ in range(repeats + 1):
        before = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        seconds.append(time.perf_counter() - before)
        if unless and unless in done.stderr:
            return None
        if done.returncode:
            raise UserError(f"a job does not start here ({' '.join(done.stderr.split())[-300:]})")
    return statistics.median(seconds[1:])


CUDA = """
import time, torch
before = time.perf_counter()
images = torch.zeros(1, 3, 8, 8, device="cuda", requires_grad=True)
torch.nn.functional.conv2d(images, torch.zeros(4, 3, 3, 3, device="cuda")).flatten(1).matmul(
    torch.zeros(144, 2, device="cuda")).sum().backward()
torch.cuda.synchronize()
print(time.perf_counter() - before)
"""


def cuda_seconds(repeats: int) -> float:
    """Measure the median seconds that a new process needs for its first convolution and product on a GPU."""
    seconds = []
    for _ in range(repeats + 1):
        done = subprocess.run([sys.executable, "-c", CUDA], check=True, capture_output=True, text=True)
        seconds.append(float(done.stdout))
    return statistics.median(seconds[1:])


def jobs_at_a_time(study: Study) -> tuple[int, str]:
    """Return how many jobs this machine would run at a time, and what that follows from."""
    compute = study.compute
    if compute.device != "cpu" and torch.cuda.is_available():
        cards = torch.cuda.device_count()
        return cards * compute.jobs_per_gpu, f"{cards} GPU x {compute.jobs_per_gpu} (compute.jobs_per_gpu)"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // compute.threads), f"{cores} CPU cores / {compute.threads} (compute.threads)"


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
