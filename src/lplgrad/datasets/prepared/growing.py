"""A data set that a person labels. Its training pool grows by shards, and a content hash identifies each image.

``data/<dataset>/`` has the files of any prepared data set. There, -1 is the label of an image of the pool that had
none. ``files.csv`` has a column more, ``sha256``. ``shards`` says how later images are stored.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lplgrad.datasets import ImageFiles, Listing, Prepared
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_array, sha256
from lplgrad.datasets.prepared.shards import BROKEN, COLUMNS, FILES, SHARD, SHARDS, count_shards, known_images
from lplgrad.datasets.prepared.staging import Staging, key_of, without_rows
from lplgrad.datasets.prepared.writing import write_dataset, write_inputs
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import escaped, file_digest, printable, read_json, remove, write_json, write_text
from lplgrad.machine.log import say, track
from lplgrad.machine.randomness import stream

HASHES = "hashes.json"
Indices = npt.NDArray[np.int64]


class Hashes:
    """The content hashes of files. A file counts as unchanged while its size and time are the same.

    Args:
        folder: of the prepared data set, where the hashes are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / HASHES
        self.known: dict[str, list[Any]] = {}
        with suppress(OSError, UserError):  # without the file, all are computed again
            found = read_json(self.path).items()
            self.known = {name: known for name, known in found if isinstance(known, list) and len(known) == 3}

    def of(self, paths: Sequence[Path], threads: int = 4) -> list[str]:
        """Return the SHA-256 of each file's bytes."""
        stamps = {}
        for path in paths:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # opening a pipe would block
                raise UserError(f"{printable(path)}: not a regular file; remove it")
            stamps[str(path)] = [found.st_size, found.st_mtime_ns]
        new = [name for name, stamp in stamps.items() if self.known.get(name, [])[:2] != stamp]
        if new:
            with ThreadPoolExecutor(threads) as pool:
                digests = track(pool.map(file_digest, map(Path, new)), len(new), "reading files")
                self.known.update({name: [*stamps[name], digest] for name, digest in zip(new, digests, strict=True)})
            with suppress(OSError):  # the folder may be read-only
                write_text(self.path, json.dumps(self.known))
        return [self.known[str(path)][2] for path in paths]


class Contents(NamedTuple):
    """The images of a listing by content hash, each once."""

    labeled: dict[str, tuple[Path, str]]  # path and class
    unlabeled: dict[str, Path]
    test: dict[str, tuple[Path, str]] | None  # None if the test set was drawn from the labelled images


def contents(listing: Listing, hashes: Hashes) -> Contents:
    """Identify the images of a listing by content.

    An image that is both labelled and unlabelled counts as labelled. One that is in the test set is in no other set.

    Raises:
        UserError: an image is in the folders of two classes.
    """
    labeled: dict[str, tuple[Path, str]] = {}
    test: dict[str, tuple[Path, str]] = {}
    repeated = 0
    of_classes = [path for part in (listing.test or {}, listing.labeled) for paths in part.values() for path in paths]
    hashes.of([*of_classes, *listing.unlabeled])  # all at once
    for by_class, into in ((listing.test or {}, test), (listing.labeled, labeled)):
        for name, paths in by_class.items():
            for path, digest in zip(paths, hashes.of(paths), strict=True):
                for known in (test, labeled):
                    if digest in known and known[digest][1] != name:
                        raise UserError(
                            f"{printable(path)}: is the same image as {printable(known[digest][0])}, in another class; "
                            "remove one of the two"
                        )
                repeated += digest in test or digest in into
                if digest not in test:
                    into.setdefault(digest, (path, name))
    unlabeled: dict[str, Path] = {}
    for path, digest in zip(listing.unlabeled, hashes.of(listing.unlabeled), strict=True):
        if digest not in labeled and digest not in test:
            repeated += digest in unlabeled
            unlabeled.setdefault(digest, path)
    if repeated:
        say(f"warning: {listing.folder}: {repeated} image(s) are there twice; each is used once")
    return Contents(labeled, unlabeled, None if listing.test is None else test)


def prepare(folder: Path, listing: Listing, threads: int, settings: Mapping[str, Any], modality: str) -> DatasetArrays:
    """Prepare a data set that a person labels: labelled images first, then unlabelled ones; and the test set.

    Args:
        folder: of the prepared data set.
        listing: the files.
        threads: that decode images.
        settings: the source and its options, which identify the data set.
        modality: of the examples.

    Raises:
        UserError: there are labelled images of fewer than two classes, or no test set can be drawn.
    """
    found = contents(listing, Hashes(folder))
    classes = sorted({*listing.labeled, *(listing.test or {})})
    members = {name: [digest for digest in found.labeled if found.labeled[digest][1] == name] for name in classes}
    where = listing.class_folders
    if sum(map(bool, members.values())) < 2:
        raise UserError(
            f"{where}: labelled images of {sum(map(bool, members.values()))} class(es); place some images of two "
            "classes or more into labeled/<class>/"
        )
    for name, digests in members.items():
        if len(digests) < 2:
            say(f"warning: {where}: {len(digests) or 'no'} labelled image(s) of class {name!r}; label more of them")
    test = found.test
    if test is None:
        test = {digest: found.labeled[digest] for digest in _held_out(members, listing)}
        if not test:
            raise UserError(
                f"{where}: no class has two images, so none can be held out as a test set; label more of them, or "
                "place a test set into test/<class>/"
            )
    elif not test:
        raise UserError(f"{listing.folder}: the test set is empty; place images into test/<class>/, or remove test/")
    pool = {digest: known for digest, known in found.labeled.items() if digest not in test}
    everything = {**pool, **{digest: (path, "") for digest, path in found.unlabeled.items()}}
    position = {**{name: number for number, name in enumerate(classes)}, "": -1}
    parts = {}
    for split, images in (("train", everything), ("test", test)):
        labels = np.array([position[name] for _, name in images.values()], dtype=np.int64)
        parts[split] = listing.files([path for path, _ in images.values()], labels)
    used = [path for images in (everything, test) for path, _ in images.values()]
    provenance = {
        "from": "a folder that a person labels", **settings,
        "labeled": len(pool), "unlabeled": len(found.unlabeled), "test": len(test),
        "test_set": "test/" if found.test is not None else "drawn from labeled/", "files": listing.by_ending(used),
    }  # fmt: skip
    prepared = Prepared(parts["train"], parts["test"], classes, provenance)
    images_of = {"train": everything, "test": test}

    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    remove(folder / BROKEN)

    def name_files(kept: Mapping[str, ImageFiles]) -> None:
        rows = [_rows(_kept(folder, images_of[split], files), listing.folder, split) for split, files in kept.items()]
        _write_files(folder / FILES, [row for part in rows for row in part])

    return write_dataset(folder, prepared, threads, settings, None, modality, True, name_files)


def _kept(folder: Path, images: Mapping[str, tuple[Path, str]], files: ImageFiles) -> dict[str, tuple[Path, str]]:
    """Return those images, by content hash, that could be read. Note the others, which are not tried again."""
    paths = set(files.paths)
    if broken := [digest for digest, (path, _) in images.items() if path not in paths]:
        earlier = read_json(folder / BROKEN).get("sha256", []) if (folder / BROKEN).exists() else []
        write_json(folder / BROKEN, {"sha256": sorted({*broken, *earlier})})
    return {digest: image for digest, image in images.items() if image[0] in paths}


def _held_out(members: Mapping[str, Sequence[str]], listing: Listing) -> list[str]:
    """Draw the test set: of each class its share, but one image or more, and never all of them."""
    drawn = []
    generator = stream(listing.split_seed, "test set of a person")
    for digests in members.values():
        order = generator.permutation(len(digests))
        size = min(max(round(listing.held_out * len(digests)), 1), len(digests) - 1)
        drawn += [digests[place] for place in np.sort(order[: max(size, 0)])]
    return drawn


def _rows(images: Mapping[str, tuple[Path, str]], folder: Path, split: str, first: int = 0) -> list[list[object]]:
    """Return the rows of ``files.csv``. The class is the one when the image was prepared; empty if it had none."""
    return [
        [number, split, escaped(str(path.relative_to(folder))), name, digest]
        for number, (digest, (path, name)) in enumerate(images.items(), start=first)
    ]


def _write_files(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *rows])
    write_text(path, text.getvalue())


def add_shard(data: DatasetArrays, listing: Listing, found: Contents, threads: int) -> int:
    """Add a shard of the images that are neither in the pool nor in the test set, and return their number."""
    folder, known = data.folder, known_images(data.folder)
    there = known.all()
    images = {digest: image for digest, image in found.labeled.items() if digest not in there}
    images |= {digest: (path, "") for digest, path in found.unlabeled.items() if digest not in there}
    if not images:
        return 0
    files = listing.files([path for path, _ in images.values()], np.full(len(images), -1, np.int64))
    shape, place = data.splits["train"].inputs.shape[1:], folder / SHARDS / ".new"
    staging = Staging(place, key_of({"train": files}, *known.digests))
    inputs, kept, _ = write_inputs(folder, staging, {"train": files}, data.classes, shape, threads, unlabeled=True)
    left = kept["train"]
    assert isinstance(left, ImageFiles)
    test = {sha256(pixels) for pixels in data.splits["test"].inputs}
    new = open_array(inputs["train"], mapped=True)
    if seen := {row for row in range(len(new)) if sha256(new[row]) in test}:
        say(
            f"warning: {folder}: {len(seen)} new image(s) look like a test image, as "
            f"{printable(left.paths[min(seen)])}; they are left out, so that nothing trains on the test set"
        )
        inputs["train"] = without_rows(inputs["train"], seen)
        left = replace(left, paths=[path for row, path in enumerate(left.paths) if row not in seen])
    readable = _kept(folder, images, left)
    if not readable:
        staging.remove()
        return 0
    number = str(count_shards(folder) + 1)
    ready = folder / SHARDS / f".{number}"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    inputs["train"].replace(ready / "train_inputs.npy")
    _write_files(ready / FILES, _rows(readable, listing.folder, "train", len(known.names)))
    array = open_array(ready / "train_inputs.npy", mapped=True)
    write_json(ready / SHARD, {"inputs": list(array.shape), "inputs_sha256": sha256(array)})
    ready.rename(folder / SHARDS / number)
    staging.remove()
    return len(readable)
