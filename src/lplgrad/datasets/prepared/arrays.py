"""A prepared data set on disk: one array of examples per split, mapped into memory when opened.

``data/<dataset>/`` contains ``{train,test}_inputs.npy`` (as the modality says), ``{train,test}_labels.npy`` (int64),
``dataset.json`` (classes, shapes, counts, checksums, channel statistics), ``provenance.json`` (the origin of the
images, for people) and ``stamps.json`` (size and time of the image arrays when they were last compared with their
checksums). ``dataset.json`` is written after the arrays: if it exists, they are complete.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lplgrad import modalities
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, write_json

STAMPS = "stamps.json"
AGAIN = "run Snakemake with --forcerun prepare, which prepares the data set again and runs its rounds again"
SPLITS: tuple[Literal["train", "test"], ...] = ("train", "test")


@dataclass(frozen=True)
class Examples:
    """One split of a data set, as its source returns it."""

    inputs: npt.NDArray[Any]  # shape (N, ...), as the modality says
    labels: npt.NDArray[np.int64]  # the class of each example, shape (N,)


@dataclass(frozen=True)
class Split:
    """One split of a prepared data set."""

    inputs: npt.NDArray[Any]  # mapped into memory, shape (N, ...), as the modality says
    known: npt.NDArray[np.int64] | None  # the class of each example, shape (N,); None for the training pool

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Return the class of each example, shape (N,). LookupError: it is the pool, of which only an oracle knows."""
        if self.known is None:
            raise LookupError("the labels of the training pool are in label files; see rounds/oracle.py")
        return self.known


@dataclass(frozen=True)
class DatasetArrays:
    """A prepared data set, with its images mapped into memory."""

    folder: Path
    splits: Mapping[str, Split]  # by the names of ``SPLITS``; ``train`` is the training pool
    classes: list[str]  # their names, in the order of the labels
    mean: list[float]  # of each channel over the training pool, for images scaled to [0, 1]
    std: list[float]  # likewise
    modality: str = "image"  # a module of ``lplgrad.modalities``
    fit: str | None = None  # how images were brought to one size, see ``datasets.ImageFiles``; None if they had one

    @property
    def channels(self) -> int:
        """Return the number of channels of an image."""
        return int(self.splits["train"].inputs.shape[-1])


def open_dataset(folder: Path, read_all: bool = False) -> DatasetArrays:
    """Open a prepared data set, and raise UserError if a file is missing, cut off or not as it was prepared.

    The labels are always compared with their checksum. The images are compared if the size or the time of their file
    has changed, or if ``read_all`` is set.
    """
    manifest = folder / "dataset.json"
    if not manifest.exists():
        raise UserError(f"{folder}: no prepared data set here (dataset.json is missing); lplgrad prepare makes one")
    described = read_json(manifest)
    try:
        classes, mean, std = described["classes"], described["mean"], described["std"]
        modality, fit = described.get("modality", "image"), described.get("fit")
        shapes = {split: tuple(described["splits"][split]["inputs"]) for split in SPLITS}
        expected = _checksums_in(described)
        channels = shapes["train"][-1]
        sound = modality in modalities.registry.names() and (fit is None or isinstance(fit, str))
        sound = (
            sound
            and _are(str, classes)
            and _are(float, mean)
            and _are(float, std)
            and len(mean) == len(std) == channels
        )
        sound = sound and all(map(math.isfinite, mean)) and all(0 < value < math.inf for value in std)
    except (KeyError, TypeError, IndexError):
        sound = False
    if not sound:
        raise UserError(f"{manifest}: not the description of a data set; prepare it anew")
    settings = described.get("settings")
    person = isinstance(settings, dict) and settings.get("oracle") == "person"
    opened: dict[str, Examples] = {
        split: _open_split(
            folder, split, shapes[split], len(classes), modality, -1 if person and split == "train" else 0
        )
        for split in SPLITS
    }
    stamps, known = _stamps(folder), dict[str, Any]()
    with suppress(OSError, UserError):  # without readable stamps, all images are compared
        known = read_json(folder / STAMPS)
    for split, part in opened.items():
        arrays: dict[str, npt.NDArray[Any]] = {"labels": part.labels}
        if read_all or known.get(split) != stamps[split]:
            arrays["inputs"] = part.inputs
        for kind, array in arrays.items():
            if sha256(array) != expected[f"{split}_{kind}"]:
                raise UserError(f"{folder / f'{split}_{kind}.npy'}: changed since it was prepared; {AGAIN}")
    if known != stamps:
        with suppress(OSError):  # if the folder is read-only, the next job compares again
            write_json(folder / STAMPS, stamps)
    splits = {name: Split(part.inputs, None if name == "train" else part.labels) for name, part in opened.items()}
    return DatasetArrays(folder, splits, classes, mean, std, modality, fit)


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each array when it was prepared, by ``<split>_inputs`` and ``<split>_labels``."""
    manifest = folder / "dataset.json"
    try:
        return _checksums_in(read_json(manifest))
    except (KeyError, TypeError):
        raise UserError(f"{manifest}: not the description of a data set; prepare it anew") from None


def _checksums_in(described: Mapping[str, Any]) -> dict[str, str]:
    splits = described["splits"]
    return {f"{split}_{kind}": splits[split][f"{kind}_sha256"] for split in SPLITS for kind in ("inputs", "labels")}


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Return size in bytes and time in nanoseconds of each array of examples. They identify an unchanged file."""
    found = {split: (folder / f"{split}_inputs.npy").stat() for split in SPLITS}
    return {split: [stat.st_size, stat.st_mtime_ns] for split, stat in found.items()}


def sha256(array: npt.NDArray[Any]) -> str:
    """Return the checksum of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _are(kind: type, values: object) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def _open_split(folder: Path, split: str, shape: tuple[int, ...], classes: int, modality: str, lowest: int) -> Examples:
    inputs = open_array(folder / f"{split}_inputs.npy", mapped=True)
    labels = open_array(folder / f"{split}_labels.npy", mapped=False)
    problem = modalities.registry.load(modality).problem(inputs)
    if problem or inputs.shape != shape or labels.dtype != np.int64 or labels.shape != shape[:1]:
        raise UserError(f"{folder}: the {split} arrays are not those that dataset.json describes; prepare it anew")
    if len(labels) and (labels.min() < lowest or labels.max() >= classes):
        raise UserError(f"{folder / f'{split}_labels.npy'}: a label is not among the {classes} classes")
    return Examples(inputs, labels)


def open_array(path: Path, mapped: bool) -> npt.NDArray[Any]:
    """Open an array on disk, mapped into memory or read. Raise UserError if it is missing, cut off or not an array."""
    if not path.is_file():
        raise UserError(f"{path}: missing; {AGAIN}")
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise ValueError("an archive of arrays")
    except PermissionError:
        raise
    except Exception as error:  # NumPy raises exceptions of many types for a broken header
        raise UserError(f"{path}: not a whole array ({error}); {AGAIN}") from None
    return array
