"""Training that continues where an earlier process stopped, within a round, and ends with the same bytes.

At intervals the state between two epochs is written to one file beside the round's outputs: weights and buffers of all
networks, optimisers, random streams, the epoch, and which models of device trained. A digest of settings, inputs and
code says which training the file belongs to. A file of another training, or a truncated one, is discarded. Snakemake
does not know the file on purpose: it deletes the known outputs of a job that failed, or whose end it did not see. So
the file outlives its job. The next job that reads this round's results deletes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lplgrad.machine.digest import code_digest
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.machine.signals import deferred
from lplgrad.recipes import Learner
from lplgrad.rounds.checkpoints import read_tensors, tensors_of, write_tensors
from lplgrad.rounds.loop import Epoch, State

FORMAT = "lplgrad progress 1"
SHARE = 0.02  # largest share of the time that goes into writing
LONGEST = 600.0  # seconds between two writes, however slow one was


class Progress:
    """The progress file of one training.

    Args:
        path: of the file.
        digest: of everything that the training's result depends on.
        seconds: between two writes; longer if writing is slow. 0 writes after every epoch.
        wanted: returns whether another process waits for the folder.
        device: name of the model of processor or GPU.
    """

    def __init__(
        self,
        path: Path,
        digest: str,
        seconds: float,
        wanted: Callable[[], bool] = lambda: False,
        device: str = "",
    ) -> None:
        self.path = path
        self.digest = digest
        self.seconds = self.interval = seconds
        self.wanted = wanted
        self.devices = [device]  # all that trained, the earliest first
        self.state: State | None = None
        self.started = self.written = time.monotonic()
        self.earlier_seconds = 0.0

    def attach(self, state: State) -> None:
        """Take a training's state before its first epoch, and bring it to where an earlier process stopped."""
        self.state = state
        if not self.path.exists():
            return
        try:
            self.earlier_seconds, earlier = restore(state, self.path, self.digest)
        except (UserError, OSError) as error:
            say(f"{self.path}: discarded ({error}); the round is trained from its first epoch")
            self.path.unlink()
            return
        say(f"{self.path}: continuing after epoch {state.epoch} of {state.epochs}")
        (device,) = self.devices
        if earlier != [device]:
            trained = "; ".join(earlier)
            say(f"continues on {device} what was trained on {trained}: bits may differ from a run on one model")
        self.devices = list(dict.fromkeys([*earlier, device]))

    def keep(self, epochs: Iterable[Epoch]) -> Iterator[Epoch]:
        """Yield the records of epochs, and write the state at intervals and when the process is to end.

        Raises:
            UserError: another process took over.
            Interrupted: the process received a signal to end.
        """
        with deferred("after this epoch") as interruptions:
            for epoch in epochs:
                yield epoch
                if self.state is None:
                    continue
                if interruptions:
                    self.write()
                    break
                if self.state.epoch == self.state.epochs:
                    if self.path.exists() or time.monotonic() - self.started >= self.seconds:
                        self.write()  # if Snakemake is dead by now, it runs the job again
                    continue
                if self.wanted():
                    self.write()
                    raise UserError("another process waits for this round and continues it; this one ends")
                if time.monotonic() - self.written >= self.interval:
                    self.write()
            if interruptions:  # also if the signal came after the last epoch
                raise interruptions[0]

    def write(self) -> None:
        """Write the state. A full disk must not abort training: log that the progress was not saved and continue."""
        assert self.state is not None
        begun = time.monotonic()
        try:
            seconds = self.earlier_seconds + begun - self.started
            save(self.state, self.path, self.digest, seconds, self.devices)
        except OSError as error:
            say(f"{self.path}: {error.strerror}; the progress was not saved, and training continues")
        self.written = time.monotonic()
        if self.seconds:
            self.interval = max(self.seconds, min((self.written - begun) / SHARE, LONGEST))


def progress_tensors(learner: Learner) -> dict[str, Tensor]:
    """Return all tensors of a learner in training by name, its optimisers' too. Training changes them in place."""
    tensors = tensors_of(learner)
    for name, optimizer in learner.optimizers.items():
        tensors.update({f"{name}/optimizer/{key}": tensor for key, tensor in optimizer.tensors().items()})
    return tensors


def save(state: State, path: Path, digest: str, seconds: float, devices: list[str]) -> None:
    """Write a state after an epoch, the seconds of training so far, and the devices that trained."""
    streams = {name: generator.bit_generator.state for name, generator in state.draws.streams.items()}
    header = {
        "format": FORMAT,
        "digest": digest,
        "epoch": state.epoch,
        "seconds": seconds,
        "devices": devices,
        "last": None if state.last is None else asdict(state.last),
        "streams": streams,
        "streams_sha256": _sha256(streams),
    }
    write_tensors(path, progress_tensors(state.learner), header)


def restore(state: State, path: Path, digest: str) -> tuple[float, list[str]]:
    """Bring a state to what a file holds, and return the seconds that were trained before, and the devices.

    Raises:
        UserError: the file is not whole, or of another training. Then the state is unchanged.
    """
    tensors, header = read_tensors(path, FORMAT, remedy="")
    if header.get("digest") != digest:
        raise UserError("it is of other settings, inputs or code")
    epoch, seconds, last, devices = (header.get(name) for name in ("epoch", "seconds", "last", "devices"))
    expected = progress_tensors(state.learner)
    if (
        type(epoch) is not int
        or not 1 <= epoch <= state.epochs
        or not isinstance(last, dict)
        or not _is_epoch(last, epoch)
        or type(seconds) is not float
        or not 0 <= seconds < math.inf
        or not isinstance(devices, list)
        or not devices
        or not all(isinstance(name, str) for name in devices)
        or {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        != {name: (tensor.shape, tensor.dtype) for name, tensor in expected.items()}
    ):
        raise UserError("it does not fit the training")
    streams: Any = header.get("streams")
    try:
        for position in streams.values():
            np.random.PCG64().state = position
        # A recipe names its streams, so nothing else tells whether a name is right or one is missing.
        if header.get("streams_sha256") != _sha256(streams):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise UserError("it has no positions of its random streams") from None
    for name, position in streams.items():
        state.draws.stream(name).bit_generator.state = position
    with torch.no_grad():
        for key, tensor in expected.items():
            tensor.copy_(tensors[key])  # in place: the memory format is part of the arithmetic
    state.epoch, state.last = epoch, Epoch(**last)
    return seconds, devices


def _sha256(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_epoch(last: dict[str, Any], number: int) -> bool:
    means = last.get("means")
    return (
        last.keys() == {"number", "means", "learning_rate"}
        and last["number"] == number
        and isinstance(last["learning_rate"], float)
        and isinstance(means, dict)
        and all(isinstance(mean, float) for mean in means.values())
        and "loss" in means
    )


def digest_of(values: object, inputs: Iterable[Path], roots: Iterable[str]) -> str:
    """Digest of settings, of files, of the code that trains, and of the versions that compute."""
    sha256 = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    sha256.update(f"{code_digest(*roots)} {torch.__version__} {np.__version__}".encode())
    for path in inputs:
        with path.open("rb") as file:
            sha256.update(hashlib.file_digest(file, "sha256").digest())
    return sha256.hexdigest()
