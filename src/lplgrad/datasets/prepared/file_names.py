"""Name the file of each image of a prepared data set, for people: ``files.csv`` in the data set's folder.

Its columns are index (the position in the split's array), split, path and class. The path is relative to the folder of
the source, or is the name in its archive. Names that are not plain text are escaped (see ``escaped``).
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lplgrad import datasets
from lplgrad.datasets import ImageFiles, Prepared
from lplgrad.datasets.prepared.arrays import SPLITS, DatasetArrays, Examples, Split, open_array, open_dataset
from lplgrad.datasets.prepared.images import decode, readable
from lplgrad.datasets.prepared.originals import ORIGINALS, change
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import escaped, printable, read_json, write_text
from lplgrad.machine.locks import alone
from lplgrad.machine.log import say, track
from lplgrad.study.jobs import SourceJob
from lplgrad.study.validation import parse

FILES = "files.csv"
COLUMNS = ["index", "split", "path", "class"]


class _UnknownError(Exception):
    """Why the files of a data set cannot be named."""


def run(arguments: argparse.Namespace) -> None:
    """Write the names. Nothing is prepared anew, and nothing is downloaded."""
    data = open_dataset(arguments.data)
    try:
        paths = _paths(data, arguments.downloads, arguments.threads)
    except _UnknownError as reason:
        say(f"warning: {data.folder}: its files cannot be named ({reason}); positions take the place of their names")
        paths = None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for split in SPLITS:
        labels = _labels(data, split)
        names = paths[split] if paths else positions(split, len(labels))
        for index, (name, label) in enumerate(zip(names, labels, strict=True)):
            writer.writerow([index, split, name, data.classes[label]])
    write_text(arguments.output, text.getvalue())


def _labels(data: DatasetArrays, split: str) -> npt.NDArray[np.int64]:
    """Read the classes of all images of a split, as they were prepared."""
    return open_array(data.folder / f"{split}_labels.npy", mapped=False)


def positions(split: str, count: int) -> list[str]:
    """Return the names of images that have no files: the split and the position in its array, as ``train/00042``."""
    return [f"{split}/{index:05d}" for index in range(count)]


def read_names(data: DatasetArrays) -> dict[str, list[str]]:
    """Read the path of each image from ``files.csv``, by split.

    Raises:
        UserError: the file is missing, or it does not describe the data set.
    """
    path = data.folder / FILES
    again = "write it again with lplgrad files, or with Snakemake and --forcerun files"
    if not path.is_file():
        raise UserError(f"{path}: missing; {again}")
    try:
        header, *rows = csv.reader(io.StringIO(path.read_bytes().decode()), strict=True)
    except (ValueError, csv.Error):
        raise UserError(f"{path}: not a whole table of files; {again}") from None
    labels = {split: _labels(data, split) for split in SPLITS}
    expected = [[str(k), split, data.classes[label]] for split in SPLITS for k, label in enumerate(labels[split])]
    if header != COLUMNS or [[*row[:2], *row[3:]] for row in rows] != expected:
        raise UserError(f"{path}: does not list the images of the data set beside it; {again}")
    return {split: [row[2] for row in rows if row[1] == split] for split in SPLITS}


def _paths(data: DatasetArrays, downloads: Path, threads: int) -> dict[str, list[str]] | None:
    """Return the escaped path of each image, by split; None if the source has no file for each image.

    Raises:
        UserError: the original files have changed since they were prepared.
        _UnknownError: they are gone, or they are not the images that were prepared.
    """
    manifest = data.folder / "dataset.json"
    settings = read_json(manifest).get("settings")
    if not settings:
        raise _UnknownError(f"{manifest} does not record their source")
    job = parse(SourceJob, settings, str(manifest))
    source = datasets.registry.load(job.source)
    options = parse(source.options, job.options, str(manifest))
    originals = source.originals(options, downloads)
    if originals is None:
        return None
    if not originals.exists():
        raise _UnknownError(f"{originals} is gone")
    tracked = (data.folder / ORIGINALS).exists()
    _check_unchanged(data.folder, originals)
    try:
        # An archive may have to be unpacked.
        with alone(downloads, "prepare") if os.access(downloads, os.W_OK) else nullcontext():
            prepared = source.prepare(options, downloads)
    except UserError as error:
        if tracked:
            raise
        raise _UnknownError(str(error)) from None
    prepared = replace(prepared, train=_kept(prepared.train, threads), test=_kept(prepared.test, threads))
    # The listing cannot show whether an unpacked archive was edited, or whether a library draws another split today.
    problem = _difference(data, prepared, threads)
    _check_unchanged(data.folder, originals)
    if problem:
        raise _UnknownError(problem)
    found: dict[str, list[str]] = {}
    for split in SPLITS:
        files = getattr(prepared, split)
        if isinstance(files, Examples):
            return None
        found[split] = [escaped(_name(path, files.root, originals, downloads)) for path in files.paths]
    return found


def _kept(part: Examples | ImageFiles, threads: int) -> Examples | ImageFiles:
    """Return a split without the images that its preparation left out."""
    return readable(part, threads) if isinstance(part, ImageFiles) and part.skip_unreadable else part


def _check_unchanged(folder: Path, originals: Path) -> None:
    listing = folder / ORIGINALS
    if listing.exists() and (problem := change(listing, originals)):
        raise UserError(
            f"{originals} has changed since {folder} was prepared ({problem}), so its files cannot be named; restore "
            f"it, prepare it again, or delete {listing} to go on with the images that were prepared"
        )


def _difference(data: DatasetArrays, prepared: Prepared, threads: int) -> str | None:
    """Return how the files differ from the arrays in labels, order or pixels; None if they agree."""
    if prepared.classes != data.classes:
        return "the classes differ from those that were prepared"
    for split in SPLITS:
        files, part = getattr(prepared, split), data.splits[split]
        if not np.array_equal(files.labels, _labels(data, split)):
            return f"the {split} labels differ from those that were prepared"
        if isinstance(files, ImageFiles) and (other := _other_image(files, part, threads, f"{split} names")):
            return f"{printable(other)} does not decode to the image that was prepared"
    return None


def _other_image(files: ImageFiles, part: Split, threads: int, what: str) -> Path | None:
    """Return the first file that does not decode to its image in the array, if there is one."""

    def agrees(position: int) -> bool:
        try:
            image = decode(files.paths[position], files.side, files.fit, files.value_range)
        except (OSError, ValueError):
            return False
        return np.array_equal(image, part.inputs[position])

    count = len(files.paths)
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads) as pool:
        for position, same in enumerate(track(pool.map(agrees, range(count)), count, what)):
            if not same:
                pool.shutdown(cancel_futures=True)
                return files.paths[position]
    return None


def _name(path: Path, root: Path | None, originals: Path, downloads: Path) -> str:
    """Return a file's name relative to the folder of the source, or in an archive that was unpacked in a folder.

    If the source names its ``root``, a file elsewhere keeps its absolute path.
    """
    if root is not None:
        return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    if originals.is_file():
        return str(Path(*path.relative_to(downloads).parts[1:]))
    return str(path.relative_to(originals))
