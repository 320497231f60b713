"""``lplgrad predict``: the predictions of a checkpoint for image files, as a table. It resumes after an interruption.

Images are predicted in batches whose boundaries follow from the list of files alone. Until the table is complete, the
batches lie in a journal beside it, ``<table>.part``: a line that says what the predictions depend on, then a line for
each batch that is done. A line that was cut off is dropped. A batch is predicted again if the size or the time of one
of its files has changed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import io
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from lplgrad import __version__, modalities
from lplgrad.acquisition.entropy import entropy
from lplgrad.datasets import Fit
from lplgrad.datasets._folders import files_below, readable
from lplgrad.datasets.prepared.images import decode
from lplgrad.machine import devices
from lplgrad.machine.digest import code_digest
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import escaped, file_digest, printable, remove, replacing, write_text
from lplgrad.machine.leases import lease_gpu
from lplgrad.machine.locks import alone
from lplgrad.machine.log import say, track
from lplgrad.recipes import Learner
from lplgrad.rounds import checkpoints
from lplgrad.rounds.evaluation import predict
from lplgrad.rounds.settings import learner_code
from lplgrad.study.settings import Compute
from lplgrad.tools.prediction_journal import Journal, Listed, Record, stamp_of

COLUMNS = ["file", "class", "confidence", "entropy"]


def run(arguments: argparse.Namespace) -> None:
    """Predict all images and write the table.

    Raises:
        UserError: the checkpoint or an image does not fit, or images cannot be read.
    """
    output: Path = arguments.output
    if output.is_dir():
        raise UserError(f"{output}: is a folder; name the table to write, as {output / 'predictions.csv'}")
    with alone(output.parent, f"{output.name}.predict"):
        images = list_images(arguments.images)
        checkpoint = checkpoints.load(arguments.checkpoint)
        compute = Compute(device=arguments.device)
        model = _model(checkpoint, compute, arguments.value_range)
        batches = [images[start : start + model.batch_size] for start in range(0, len(images), model.batch_size)]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        journal = Journal(output.with_name(f"{output.name}.part"), _about(checkpoint, images, model), batches)
        with journal.opened() as file:
            done = sum(len(batches[number]) for number in journal.places)
            if done:
                say(f"{journal.path}: continuing after {done:,} of {len(images):,} images")
            todo = [number for number in range(len(batches)) if number not in journal.places]
            started, count = time.monotonic(), len(images) - done

            with closing(_records(model, batches, todo, arguments.threads or cores, compute)) as records:

                def each_image() -> Iterator[None]:
                    for number, record in records:
                        journal.add(file, number, record)
                        yield from [None] * len(batches[number])

                for _ in track(each_image(), count, "images"):
                    pass
            if count:
                seconds = time.monotonic() - started
                speed = f"{1000 * seconds / count:.3g} s per 1,000 images"
                say(f"{count:,} images took {seconds:.1f} s on {model.device.type}: {speed}")
            _finish(output, checkpoint.about.classes, file, journal, arguments.skip_unreadable)
        remove(journal.path)


def list_images(places: Sequence[Path]) -> list[Listed]:
    """List the images of some folders and files: in the order given, and below a folder in the order of their paths.

    Names are relative to the folder if it is the only place, and otherwise begin as the place was given. A file with
    several paths is listed once.

    Raises:
        UserError: a place is missing, or a folder has no images.
    """
    found: dict[str, Listed] = {}
    repeated = []
    for place in places:
        if place.is_dir():
            below = files_below(place)
            images = readable(place, {"": below})[""]
            if not images:
                raise UserError(f"{place}: no images below this folder")
            if others := [path for path in below if path not in images]:
                example = printable(others[0].name)
                say(f"{place}: passed over {len(others)} file(s) that are no images, as {example}")
        elif place.exists():
            images = {place: os.path.realpath(place)}
        else:
            raise UserError(f"{printable(place)}: no such file or folder; name images or folders of images")
        for path, real in images.items():
            name = path.relative_to(place) if len(places) == 1 and place.is_dir() else path
            if found.setdefault(real, Listed(escaped(str(name)), path)).path != path:
                repeated.append(path)
    if repeated:
        say(f"passed over {len(repeated)} other path(s) of images that are listed already, as {printable(repeated[0])}")
    return list(found.values())


@dataclass(frozen=True)
class Model:
    """A learner that predicts image files.

    Attributes:
        learner: on the device.
        classes: their names.
        shape: of a decoded image (H, W, C).
        fit: how images are brought to this size; None if all must have it.
        value_range: see ``decode``.
        view: from decoded images to network input.
        batch_size: images that are passed at a time.
        device: of the learner.
    """

    learner: Learner
    classes: Sequence[str]
    shape: tuple[int, int, int]
    fit: Fit | None
    value_range: Sequence[float] | None
    view: modalities.View
    batch_size: int
    device: torch.device

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Decode an image as the training images were: uint8, shape (H, W, C).

        Raises:
            UserError: the image does not fit the checkpoint.
            ValueError, OSError: it cannot be read, see ``decode``.
        """
        height, width, channels = self.shape
        side = height if self.fit is not None and height == width else None
        kinds: list[str] = []
        image = decode(path, side, self.fit or "crop", self.value_range, kinds)
        name = printable(path)
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{name}: has {image.shape[1]}x{image.shape[0]} pixels, but the checkpoint was trained on images of "
                f"{width}x{height} that were not scaled; scale it, or leave it out of --images"
            )
        if self.value_range is None and kinds != ["8-bit"]:
            raise UserError(
                f"{name}: has {kinds[0]} numbers, and a checkpoint does not say which of them were black and white in "
                "training; give --value-range as in the settings of the data set (without a value_range there, it was "
                "0 65535 for unsigned 16-bit and 0 1 for floating-point numbers)"
            )
        if channels == 1:
            if not (image == image[..., :1]).all():
                raise UserError(
                    f"{name}: has colours, but the checkpoint was trained on grey images; convert it to grey, or leave "
                    "it out of --images"
                )
            image = image[..., :1]
        return image

    def record(self, learner: Learner, batch: Sequence[Listed], turn: Any) -> Record:
        """Predict a batch of images.

        Images that cannot be read are black in the batch, so that they change no other prediction.

        Args:
            learner: a copy for this thread.
            batch: the images.
            turn: a context in which the network computes.
        """
        stamp = stamp_of(batch)
        pixels = np.zeros((len(batch), *self.shape), dtype=np.uint8)
        unreadable: dict[int, str] = {}
        for position, image in enumerate(batch):
            try:
                pixels[position] = self.read(image.path)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                unreadable[position] = printable(" ".join(reason.split()))
        rows = io.StringIO()
        if len(unreadable) < len(batch):
            with turn:
                inputs = self.view.plain(devices.to_tensor(pixels, self.device))
                logits = predict(learner, [inputs])["logits"].cpu()
            if not torch.isfinite(logits).all():
                raise UserError(f"{printable(batch[0].path)}: the logits of it or of an image after it are not finite")
            cells = zip(batch, self.cells(logits), strict=True)
            writer = csv.writer(rows, lineterminator="\n")
            writer.writerows([image.name, *row] for one, (image, row) in enumerate(cells) if one not in unreadable)
        return Record(stamp, rows.getvalue(), [[batch[one].name, reason] for one, reason in unreadable.items()])

    def cells(self, logits: torch.Tensor) -> Iterator[list[str]]:
        """Yield the cells of each row after the file, from float32 logits, shape (B, C)."""
        values = logits.double().numpy()
        best = values.argmax(axis=1)
        weights = np.exp(values - values.max(axis=1, keepdims=True))
        others = weights.copy()
        others[np.arange(len(best)), best] = 0
        sums = others.sum(axis=1)
        probabilities = weights / (1 + sums[:, np.newaxis])
        for row, chosen, rest, uncertainty in zip(
            probabilities.tolist(), best.tolist(), (sums / (1 + sums)).tolist(), entropy(logits).tolist(), strict=True
        ):
            texts = [f"{value:.6g}" for value in row]
            texts[chosen] = confidence(row[chosen], rest)
            yield [self.classes[chosen], texts[chosen], f"{uncertainty:.6g}", *texts]


def confidence(value: float, rest: float) -> str:
    """Return a probability in 6 significant digits, or so many that what is missing to 1 has 6, if that is smaller.

    Args:
        value: the probability.
        rest: what is missing to 1, which the difference would round.

    Returns:
        A decimal number. It is "1" only if the nearest float64 is 1.
    """
    if value <= 0.5:
        return f"{value:.6g}"
    if rest <= 2.0**-54:
        return "1"
    return f"{1 - Decimal(f'{rest:.5e}'):f}".rstrip("0")


def _model(checkpoint: checkpoints.Checkpoint, compute: Compute, value_range: Sequence[float] | None) -> Model:
    """Move the learner of a checkpoint to the device. A GPU is leased once everything else is checked."""
    about, path = checkpoint.about, checkpoint.path
    if about.modality != "image":
        raise UserError(f"{path}: was trained on examples of the modality {about.modality!r}; predict reads images")
    means = len(about.normalization.mean)
    if len(about.shape) != 3 or about.shape[0] not in (1, 3) or means != about.shape[0]:
        raise UserError(f"{path}: takes input of the shape {list(about.shape)} with {means} mean(s), which is no image")
    fits: tuple[Fit, ...] = get_args(Fit)
    fit = next((one for one in fits if one == about.fit), None)
    if about.fit is not None and fit is None:
        raise UserError(f"{path}: images were fitted by {about.fit!r}, which this version does not know")
    if value_range is not None and not 1e-30 < value_range[1] - value_range[0] < 1e30:
        raise UserError("--value-range: the first number must be lower than the second")
    if compute.device != "cpu":
        lease_gpu()  # before CUDA starts
    device = devices.set_up(compute)
    learner = checkpoints.to_device(checkpoint.learner, device)
    channels, height, width = about.shape
    modality, shape, normalization = modalities.registry.load("image"), (height, width, channels), about.normalization
    view = modality.view(modality.augmentation(), normalization.mean, normalization.std, shape, device)
    return Model(learner, about.classes, shape, fit, value_range, view, view.batch_size(), device)


def _about(checkpoint: checkpoints.Checkpoint, images: Sequence[Listed], model: Model) -> dict[str, Any]:
    """Return what all predictions depend on, by the names that a message gives."""
    names = hashlib.sha256("".join(f"{image.name}\n" for image in images).encode())
    code = ["tools.predict.run", *learner_code(checkpoint.about.recipe, checkpoint.about.backbone)]
    return {
        "checkpoint": file_digest(checkpoint.path),
        "list of images": names.hexdigest(),
        "value range": None if model.value_range is None else list(model.value_range),
        "device": model.device.type,
        "batches": model.batch_size,
        "code": code_digest(*code),
        "versions": {"lplgrad": __version__, **{name: version(name) for name in ("torch", "numpy", "pillow")}},
    }


def _records(
    model: Model, batches: Sequence[Sequence[Listed]], todo: Sequence[int], threads: int, compute: Compute
) -> Generator[tuple[int, Record]]:
    """Predict batches in several threads, and yield them in order. A few batches at a time are in memory.

    On a CPU, each thread decodes and computes by itself, so that no result depends on how many there are. On a GPU, one
    thread at a time computes while the others decode. Threads share the weights, but not the modules, because a
    network may keep values in its attributes.
    """
    tensors = [one for net in model.learner.networks.values() for one in (*net.parameters(), *net.buffers())]
    shared = {id(one): one for one in (*tensors, *model.learner.state.values())}
    local, turn = threading.local(), nullcontext() if model.device.type == "cpu" else threading.Lock()

    def prepare() -> None:
        torch.set_num_threads(compute.threads)  # holds for a thread
        local.learner = copy.deepcopy(model.learner, dict(shared))

    def work(number: int) -> Record:
        return model.record(local.learner, batches[number], turn)

    waiting: deque[tuple[int, Future[Record]]] = deque()
    # Pillow's warnings name no file. They concern metadata that is not used, and images that are refused.
    with warnings.catch_warnings(action="ignore"):
        pool = ThreadPoolExecutor(min(threads, max(len(todo), 1)), initializer=prepare)
        try:
            for number in todo:
                waiting.append((number, pool.submit(work, number)))
                if len(waiting) > 2 * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for last, future in waiting:
                yield last, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _finish(output: Path, classes: Sequence[str], file: IO[bytes], journal: Journal, skip: bool) -> None:
    """Write the table, and beside it which images could not be read.

    Raises:
        UserError: images could not be read, and they are not to be left out.
    """
    unreadable = [one for record in journal.records(file) for one in record.unreadable]
    listing = output.with_name(f"{output.name}.unreadable.tsv")
    if unreadable:
        write_text(listing, "".join(f"{name}\t{reason}\n" for name, reason in unreadable))
        count = f"{len(unreadable):,} of {sum(map(len, journal.batches)):,} images cannot be read"
        if not skip:
            name, reason = unreadable[0]
            raise UserError(
                f"{count}, the first is {name} ({reason}); all are listed in {listing}, and the others are predicted "
                f"in {journal.path}: repair them and run again, or add --skip-unreadable to leave them out"
            )
        say(f"warning: {count} and are left out; they are listed in {listing}")
    else:
        remove(listing)
    with replacing(output) as table:
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow([*COLUMNS, *(f"p({name})" for name in classes)])
        table.write(header.getvalue().encode())
        for record in journal.records(file):
            table.write(record.rows.encode())
