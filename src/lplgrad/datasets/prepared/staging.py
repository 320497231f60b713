"""Decode the files of a data set into arrays on disk, so that a preparation that was killed goes on where it was.

The folder ``.new`` in the folder of the data set holds the arrays while they are decoded, and ``progress.json``, which
says how many images of each split are in them. Their key is a digest of everything that determines the arrays:
settings, files with their sizes and times, code and libraries. If it differs, decoding starts from the beginning.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lplgrad.datasets import ImageFiles
from lplgrad.datasets.prepared.images import Decoded, decode_all
from lplgrad.machine.digest import code_digest
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, write_json
from lplgrad.machine.log import say

PROGRESS = "progress.json"
BLOCK = 1000  # images that are copied at once

Array = np.memmap[Any, np.dtype[np.uint8]]


def key_of(splits: Mapping[str, ImageFiles], *others: object) -> str:
    """Return a digest of the files of some splits, of the code that decodes them, and of other values (as JSON)."""
    digest = hashlib.sha256(json.dumps([*others, code_digest("datasets.prepared.images.decode_all")]).encode())
    for split, files in splits.items():
        digest.update(json.dumps([split, files.side, files.fit, files.value_range]).encode())
        for path in files.paths:
            size, time = -1, -1
            with suppress(OSError):  # the decoder reports files that are missing
                found = path.stat()
                size, time = found.st_size, found.st_mtime_ns
            digest.update(os.fsencode(path) + b"\0%d %d\n" % (size, time))
    return digest.hexdigest()


class Staging:
    """The arrays of a data set that is being prepared.

    Attributes:
        folder: where they are. It stays if the process is killed before ``remove``.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Open the folder. Arrays of another key are deleted."""
        self.folder, self._key = folder, key
        self._done: dict[str, Decoded] = {}
        found: dict[str, Any] = {}
        with suppress(OSError, UserError):
            found = read_json(folder / PROGRESS)
        if found.get("key") == key:
            for split, done in found["splits"].items():  # JSON has no numbers as keys
                unreadable = {int(position): reason for position, reason in done["unreadable"].items()}
                self._done[split] = Decoded(done["images"], done["kinds"], unreadable)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def decode(self, split: str, files: ImageFiles, shape: tuple[int, ...], threads: int) -> tuple[Path, Decoded]:
        """Decode a split directly into its file, because the images may not fit into memory.

        Args:
            split: its name.
            files: the N images.
            shape: of a decoded image.
            threads: for decoding.

        Returns:
            The file of the array, uint8 of shape (N, *shape), and what was decoded.
        """
        path, count = self.folder / f"{split}_decoded.npy", len(files.paths)
        done, found = self._done.get(split), _opened(path, (count, *shape))
        if done is None or found is None:
            done, found = Decoded(), _new_array(path, (count, *shape))
        else:
            say(f"{self.folder}: goes on after {done.images:,} of {count:,} {split} images, which are decoded already")
        self._done[split], array = done, found

        def save() -> None:
            array.flush()
            write_json(
                self.folder / PROGRESS,
                {"key": self._key, "splits": {name: asdict(one) for name, one in self._done.items()}},
            )

        decode_all(files, array, threads, f"{split} images", done, save)
        return path, done

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def without_rows(path: Path, rows: set[int]) -> Path:
    """Copy an array on disk without some rows, and return the file of the copy."""
    array = np.load(path, mmap_mode="r")
    kept = np.array([row for row in range(len(array)) if row not in rows], dtype=np.int64)
    copy = _new_array(path.with_name(f"kept_{path.name}"), (len(kept), *array.shape[1:]))
    for start in range(0, len(kept), BLOCK):
        copy[start : start + BLOCK] = array[kept[start : start + BLOCK]]
    copy.flush()
    return path.with_name(f"kept_{path.name}")


def _opened(path: Path, shape: tuple[int, ...]) -> Array | None:
    """Open an array of uint8 for writing; None if it is missing or another one."""
    try:
        array = np.lib.format.open_memmap(path, "r+")
    except (OSError, ValueError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _new_array(path: Path, shape: tuple[int, ...]) -> Array:
    """Create an array of uint8. Raise OSError if the disk is full."""
    try:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        # Allocate the space: if the disk is full, a write into mapped memory raises a signal. macOS cannot do it.
        if hasattr(os, "posix_fallocate"):
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    return array
