"""The pool of a data set that a person labels: arrays on disk, and which of them belong to a round.

Images that are added after the preparation become ``data/<dataset>/shards/<k>/``, each with ``train_inputs.npy``,
``files.csv`` and ``shard.json``. Shards are never changed, and positions in the pool never move. The pool of a round is
a file of its own (``PoolFile``), so that a finished round does not depend on later images.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from lplgrad.datasets.prepared.arrays import STAMPS, DatasetArrays, Split, checksums, open_array, sha256
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, write_json

FILES, SHARDS, SHARD, BROKEN = "files.csv", "shards", "shard.json", "left_out.json"
COLUMNS = ["index", "split", "path", "class", "sha256"]  # of ``files.csv``


class Known(NamedTuple):
    """The images that have been prepared, base and shards."""

    names: list[str]  # of the pool, by position: the path when it was prepared, relative to the folder
    digests: list[str]  # of the pool, by position
    test: dict[str, str]  # the class of each test image, by digest
    broken: set[str]  # the digests of images that were left out: unreadable, or test images with other bytes

    def all(self) -> set[str]:
        """Return the digests of all images that need not be prepared any more."""
        return {*self.digests, *self.test, *self.broken}


def known_images(folder: Path, shards: int | None = None) -> Known:
    """Read ``files.csv`` of a data set and of its first ``shards`` shards; None for all of them."""
    count = count_shards(folder) if shards is None else shards
    broken = read_json(folder / BROKEN).get("sha256", []) if (folder / BROKEN).exists() else []
    known = Known([], [], {}, set(broken))
    for place in [folder, *(folder / SHARDS / str(number) for number in range(1, count + 1))]:
        path = place / FILES
        try:
            header, *rows = csv.reader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
            if header != COLUMNS:
                raise ValueError
            for index, split, name, label, digest in rows:
                if split == "test":
                    known.test[digest] = label
                elif int(index) != len(known.names):
                    raise ValueError
                else:
                    known.names.append(name)
                    known.digests.append(digest)
        except (ValueError, csv.Error):
            raise UserError(f"{path}: not a whole table of files; restore it, or prepare the data set again") from None
    return known


def count_shards(folder: Path) -> int:
    """Return how many shards a data set has."""
    number = 0
    while (folder / SHARDS / str(number + 1) / SHARD).exists():
        number += 1
    return number


@dataclass(frozen=True)
class PoolFile:
    """The pool of a round, as a file next to its labelled set.

    Attributes:
        classes: their names, in the order of the labels.
        bought: the labels that were bought for each round up to this one.
        base: the checksum of the images that were prepared first.
        shards: the checksums of the shards that belong to the pool.
        examples: the size of the pool.
        removed: positions of images that have no label and are gone from the folder. They are no candidates.
    """

    classes: list[str]
    bought: list[int]
    base: str
    shards: list[str]
    examples: int
    removed: list[int]

    def write(self, path: Path) -> None:
        """Write the file."""
        write_json(path, vars(self))

    @classmethod
    def read(cls, path: Path) -> PoolFile:
        """Read the file. Raise UserError if it is not such a file."""
        values = read_json(path)
        kinds = {"classes": str, "bought": int, "shards": str, "removed": int}
        sound = values.keys() == cls.__dataclass_fields__.keys() and type(values["examples"]) is int
        sound = sound and type(values["base"]) is str
        if not sound or any(not _are(kind, values[key]) for key, kind in kinds.items()):
            raise UserError(f"{path}: not the pool of a round; delete it and run again")
        return cls(**values)


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


class _Joined:
    """Arrays that follow each other, as far as the rounds use an array: its shape, its length, and some examples."""

    def __init__(self, parts: Sequence[npt.NDArray[Any]]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])
        self.dtype = parts[0].dtype
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        wanted = np.arange(len(self))[key]
        positions = np.atleast_1d(wanted)
        found = np.empty((len(positions), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self.ends, positions, side="right")
        for number, part in enumerate(self.parts):
            here = which == number
            found[here] = part[positions[here] - (self.ends[number] - len(part))]
        return found if wanted.ndim else found[0]


def open_pool(data: DatasetArrays, path: Path) -> tuple[DatasetArrays, PoolFile]:
    """Return a data set with the pool and the classes of a round.

    Raises:
        UserError: a shard is missing or has changed.
    """
    pool = PoolFile.read(path)
    if checksums(data.folder)["train_inputs"] != pool.base:
        raise UserError(
            f"{data.folder}: was prepared again since {path} was written, so its images have other positions; restore "
            "it, or start over: delete the results of this study (the labels in the tables stay)"
        )
    parts = [data.splits["train"].inputs]
    for number, checksum in enumerate(pool.shards, start=1):
        place = data.folder / SHARDS / str(number)
        array, stamps = open_array(place / "train_inputs.npy", mapped=True), place / STAMPS
        stat = (place / "train_inputs.npy").stat()
        stamp = {"train": [stat.st_size, stat.st_mtime_ns]}
        if not stamps.exists() or read_json(stamps) != stamp:
            if sha256(array) != checksum:
                raise UserError(f"{place}: changed since {path} was written; restore it")
            with suppress(OSError):  # if the folder is read-only, the next job compares again
                write_json(stamps, stamp)
        if read_json(place / SHARD).get("inputs_sha256") != checksum:
            raise UserError(f"{place}: is not the shard of {path}; restore it")
        parts.append(array)
    joined = cast("npt.NDArray[Any]", _Joined(parts))
    if len(joined) != pool.examples:
        raise UserError(f"{path}: describes a pool of {pool.examples} images, but there are {len(joined)}; restore it")
    splits = {**data.splits, "train": Split(joined, None)}
    return replace(data, splits=splits, classes=pool.classes), pool
