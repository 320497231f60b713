"""A round of a trial, opened once for the job that works on it: a training, a query or an observation."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from lplgrad import __version__, modalities
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.datasets.prepared.shards import PoolFile, open_pool
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest
from lplgrad.machine.leases import lease_gpu
from lplgrad.machine.locks import alone
from lplgrad.machine.log import say, track
from lplgrad.machine.randomness import Purpose, stream
from lplgrad.modalities import View
from lplgrad.rounds.files import check_rounds, read_labeled
from lplgrad.rounds.pool import Indices, LabeledSet
from lplgrad.rounds.settings import digests, named_files
from lplgrad.rounds.stopping import has_stopped
from lplgrad.study.jobs import ObservationJob, QueryJob, TrainingJob
from lplgrad.study.settings import Normalization
from lplgrad.study.validation import Settings, parse, parse_settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

JobT = TypeVar("JobT", TrainingJob, QueryJob, ObservationJob)


@dataclass
class Round(Generic[JobT]):
    """A round of a trial and the job that works on it."""

    arguments: argparse.Namespace  # of the job's command
    settings: JobT
    data: DatasetArrays
    labeled: LabeledSet
    number: int  # from 1
    stopped: bool  # the trial has reached its target accuracy before, so the job has nothing to compute
    wanted: Callable[[], bool]  # whether another process waits for the round's folder
    pool: PoolFile | None = None  # of a data set that a person labels
    digests: dict[str, object] = field(init=False)  # of the data, labels and checkpoint when the job began
    files: dict[str, str] = field(init=False)  # digests of the files that options name, by path

    def __post_init__(self) -> None:
        self.digests = digests(self.arguments)
        self.files = {path: file_digest(Path(path)) for path in named_files(self.settings)}

    @property
    def folder(self) -> Path:
        """The folder that the job writes to."""
        return Path(self.arguments.output)

    @property
    def seed(self) -> int:
        """The seed of the trial."""
        return int(self.arguments.seed)

    @property
    def unavailable(self) -> Indices:
        """Positions in the pool that are no candidates although they have no label: images that are gone."""
        return np.array([] if self.pool is None else self.pool.removed, dtype=np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one network input: channels, height and width of an image."""
        return modalities.registry.load(self.data.modality).input_shape(self.data.splits["train"].inputs.shape[1:])

    def view(self, normalization: Normalization) -> View:
        """Return how the examples become input of a network that was trained with a normalization."""
        self.check_channels(normalization)
        modality, stored = modalities.registry.load(self.data.modality), self.data.splits["train"].inputs.shape[1:]
        given = getattr(self.settings, "augmentation", {})
        augmentation = parse(modality.augmentation, given, "--settings: augmentation")
        return modality.view(augmentation, normalization.mean, normalization.std, stored, self.device)

    def check_channels(self, normalization: Normalization) -> None:
        """Raise UserError if a normalization is of another number of channels than the examples."""
        if len(normalization.mean) != self.data.channels:
            raise UserError(
                f"normalization: has {len(normalization.mean)} channels, the examples of {self.data.folder} "
                f"{self.data.channels}"
            )

    @cached_property
    def device(self) -> torch.device:
        """The device that the job computes on. The first use leases a GPU, so use it after all checks."""
        from lplgrad.machine import devices  # imports torch, which a stopped round and a random query do without

        if self.settings.compute.device != "cpu":
            lease_gpu(self.arguments.jobs_per_gpu)  # before CUDA starts
        return devices.set_up(self.settings.compute)

    def stream(self, purpose: Purpose | str) -> np.random.Generator:
        """The random stream of a purpose in this round."""
        return stream(self.seed, purpose, self.number)

    def batches(
        self,
        split: str,
        positions: Indices | None,
        normalization: Normalization,
        what: str = "",
        augmenting: np.random.Generator | None = None,
    ) -> Iterator[Tensor]:
        """Read examples as batches of network input. Evaluations and queries have no other way from array to network.

        Args:
            split: the name of the split, such as ``train``.
            positions: which examples of the split; None for all.
            normalization: that the network was trained with.
            what: name of the examples in lines of progress; empty for no lines.
            augmenting: the random stream of the augmentation; None for none.

        Yields:
            float32, shape (B, ...), on the device.
        """
        import torch  # see ``device``

        from lplgrad.machine.devices import to_tensor

        stored, view = self.data.splits[split].inputs, self.view(normalization)
        chosen, size = np.arange(len(stored)) if positions is None else positions, view.batch_size()
        starts: Iterable[int] = range(0, len(chosen), size)
        if what:
            starts = track(starts, -(-len(chosen) // size), what)
        for start in starts:
            batch = to_tensor(stored[chosen[start : start + size]], self.device)
            if augmenting is not None:
                augmenter = view.augmenter(batch)
                draws = to_tensor(augmenter.draw(augmenting), self.device)
                batch = augmenter(torch.arange(len(batch), device=self.device), draws)
            yield view.plain(batch)


def query_size(here: Round[QueryJob]) -> int:
    """Return how many examples the query of a round chooses. The budget or the pool of a person may end with fewer."""
    if here.pool is None:
        return here.settings.query_size
    left = here.pool.examples - len(here.labeled) - len(here.pool.removed)
    return max(0, min(here.settings.query_size, left, int(here.arguments.labels) - len(here.labeled)))


@contextmanager
def open_round(arguments: argparse.Namespace, job: type[JobT], what: str) -> Iterator[Round[JobT]]:
    """Open a round for a job, alone in its folder, and check everything that can be checked without torch.

    Args:
        arguments: of the command: ``data``, ``labeled``, ``checkpoint``, ``seed``, ``settings``, ``jobs_per_gpu``,
            ``output``, and those that only some jobs have: ``round``, ``bought``, ``target_accuracy``, ``previous``,
            ``metrics``.
        job: the kind of its settings.
        what: name of the job.

    Raises:
        UserError: an argument or a file is wrong.
    """
    with alone(arguments.output, what) as wanted:
        settings = parse_settings(job, arguments.settings)
        _log_settings(settings)
        data, pool = open_dataset(arguments.data), None
        if vars(arguments).get("pool"):
            for option in ("answers", "labels"):
                if vars(arguments).get(option, "") is None:
                    raise UserError(f"--{option}: missing: with --pool, a person labels")
            data, pool = open_pool(data, arguments.pool)
        bought = np.cumsum(pool.bought).tolist() if pool else vars(arguments).get("bought")
        labeled = read_labeled(arguments.labeled, len(data.splits["train"].inputs), len(data.classes))
        newest = len(pool.bought) if pool else int(labeled.rounds.max())
        number, metrics = vars(arguments).get("round", newest), _metrics(arguments)
        stopped = metrics is not None and has_stopped(metrics, arguments.target_accuracy)
        if not stopped:
            if newest != number:
                raise UserError(f"{arguments.labeled}: the labels of round {newest}, not of round {number}")
            check_rounds(arguments.labeled, labeled, number, bought)
            _check_clock([arguments.data / "dataset.json", arguments.labeled, *filter(None, [arguments.checkpoint])])
        yield Round(arguments, settings, data, labeled, number, stopped, wanted, pool)


def _log_settings(settings: Settings) -> None:
    """Write the first line of a job's log: what runs where, with which settings."""
    cards = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f"{platform.node()}, CUDA_VISIBLE_DEVICES={cards}" if cards else platform.node()
    say(
        f"lplgrad {__version__}, Python {platform.python_version()}, PyTorch {version('torch')}, on {where}: "
        f"{json.dumps(settings.model_dump(by_alias=True))}"
    )


def _metrics(arguments: argparse.Namespace) -> Path | None:
    """The metrics that show whether a trial with a target accuracy has stopped before this job."""
    given = vars(arguments)
    if given.get("target_accuracy") is None or ("previous" in given and arguments.round == 1):
        return None
    option = "previous" if "previous" in given else "metrics"
    if given[option] is None:
        raise UserError(f"--{option}: missing: it shows whether the target accuracy was reached")
    return Path(given[option]) / "metrics.json" if option == "previous" else Path(given[option])


def _check_clock(paths: Iterable[Path]) -> None:
    """Refuse inputs that are dated ahead of the clock: Snakemake would discard the outputs as older than them."""
    now = time.time()
    for path in paths:
        ahead = path.stat().st_mtime - now
        if ahead > 60:  # clocks of a cluster differ by seconds
            raise UserError(
                f"{path}: is dated {ahead / 3600:.1f} hours ahead of this machine's clock, and Snakemake would discard "
                'what is made of it; set the clock right, or date the files anew (docs/cluster.md, "The pulled plug")'
            )
