"""A prepared data set on disk: one uint8 array per split, opened without being read.

``data/<dataset>/`` holds ``{train,test}_images.npy`` (uint8, N x H x W x C), ``{train,test}_labels.npy`` (int64),
``dataset.json`` (classes, shapes, counts, checksums, channel statistics), ``provenance.json`` (where the images came
from, for people) and ``stamps.json`` (size and time of the image arrays when they were last compared with their
checksums). ``dataset.json`` is written last: if it exists, the rest is whole.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lplgrad.datasets import Images
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, write_json

STAMPS = "stamps.json"
AGAIN = "run Snakemake with --forcerun prepare, which prepares the data set again and runs its rounds again"
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


@dataclass(frozen=True)
class DatasetArrays:
    """A prepared data set, its images mapped into memory.

    Attributes:
        folder: where it lies.
        train, test: the splits.
        classes: names in the order of the labels.
        mean, std: per channel over the training pool, images scaled to [0, 1].
    """

    folder: Path
    train: Images
    test: Images
    classes: list[str]
    mean: list[float]
    std: list[float]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.train.images.shape[-1])

    @property
    def side(self) -> int:
        """The shorter side of an image in pixels."""
        return int(min(self.train.images.shape[1:3]))


def open_dataset(folder: Path, read_all: bool = False) -> DatasetArrays:
    """Open a prepared data set and check that it is still the one that was prepared.

    The labels are compared with their checksum. The images are mapped into memory and not read, unless the size or the
    time of their file has changed: then they are compared with their checksum too.

    Args:
        folder: of the data set.
        read_all: compare the images in any case.

    Raises:
        UserError: a file is missing, cut off, or not what ``dataset.json`` describes.
    """
    manifest = folder / "dataset.json"
    if not manifest.exists():
        raise UserError(f"{folder}: no prepared data set here (dataset.json is missing); lplgrad prepare makes one")
    described = read_json(manifest)
    try:
        classes, mean, std = described["classes"], described["mean"], described["std"]
        shapes = {split: tuple(described["splits"][split]["images"]) for split in SPLITS}
        expected = _checksums_in(described)
        channels = shapes["train"][3]
        sound = _are(str, classes) and _are(float, mean) and _are(float, std) and len(mean) == len(std) == channels
        sound = sound and all(map(math.isfinite, mean)) and all(0 < value < math.inf for value in std)
    except (KeyError, TypeError, IndexError):
        sound = False
    if not sound:
        raise UserError(f"{manifest}: not the description of a data set; prepare it anew")
    train, test = (_open_split(folder, split, shapes[split], len(classes)) for split in SPLITS)
    known = _known_stamps(folder)
    for split, part in (("train", train), ("test", test)):
        _compare(folder / f"{split}_labels.npy", part.labels, expected[f"{split}_labels"])
        if read_all or known.get(split) != _stamp(folder, split):
            _compare(folder / f"{split}_images.npy", part.images, expected[f"{split}_images"])
    if known != {split: _stamp(folder, split) for split in SPLITS}:
        with suppress(OSError):  # where nothing can be written, the next job compares again
            write_stamps(folder)
    return DatasetArrays(folder, train, test, classes, mean, std)


def _compare(path: Path, array: npt.NDArray[Any], expected: str) -> None:
    if sha256(array) != expected:
        raise UserError(f"{path}: changed since it was prepared; {AGAIN}")


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each array when it was prepared, by ``<split>_images`` and ``<split>_labels``.

    Two data sets with the same checksums are the same data set.

    Raises:
        UserError: ``dataset.json`` has no checksums.
    """
    manifest = folder / "dataset.json"
    described = read_json(manifest)
    try:
        return _checksums_in(described)
    except (KeyError, TypeError):
        raise UserError(f"{manifest}: not the description of a data set; prepare it anew") from None


def _checksums_in(described: Mapping[str, Any]) -> dict[str, str]:
    splits = described["splits"]
    return {f"{split}_{kind}": splits[split][f"{kind}_sha256"] for split in SPLITS for kind in ("images", "labels")}


def write_stamps(folder: Path) -> None:
    """Write the size and the time of the image arrays, which were just compared with their checksums or written."""
    write_json(folder / STAMPS, {split: _stamp(folder, split) for split in SPLITS})


def _stamp(folder: Path, split: str) -> list[int]:
    """Size in bytes and time of last change in nanoseconds: if a file has kept both, it is taken to be unchanged."""
    found = (folder / f"{split}_images.npy").stat()
    return [found.st_size, found.st_mtime_ns]


def _known_stamps(folder: Path) -> dict[str, Any]:
    """The stamps that were written last; none if there is no such file or it is broken."""
    try:
        return read_json(folder / STAMPS)
    except (OSError, UserError):
        return {}


def sha256(array: npt.NDArray[Any]) -> str:
    """Checksum of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _open_split(folder: Path, split: str, shape: tuple[int, ...], classes: int) -> Images:
    arrays: Mapping[str, Any] = {
        kind: open_array(folder / f"{split}_{kind}.npy", mapped=kind == "images") for kind in ("images", "labels")
    }
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.shape != shape or labels.dtype != np.int64 or labels.shape != shape[:1]:
        raise UserError(f"{folder}: the {split} arrays are not those that dataset.json describes; prepare it anew")
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise UserError(f"{folder / f'{split}_labels.npy'}: a label is not among the {classes} classes")
    return Images(images, labels)


def open_array(path: Path, mapped: bool) -> npt.NDArray[Any]:
    """Open an array on disk, mapped into memory or read.

    Raises:
        UserError: it is missing or cut off.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing; {AGAIN}")
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
    except PermissionError:
        raise
    # All that NumPy's parser of a header that is not one was seen to raise.
    except (ValueError, EOFError, OSError, SyntaxError, TokenError, TypeError, OverflowError, MemoryError) as error:
        raise UserError(f"{path}: not a whole array ({error}); {AGAIN}") from None
    return array
