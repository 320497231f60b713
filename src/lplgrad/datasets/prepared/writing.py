"""Write a prepared data set: check what a source returned, decode its files, and write arrays."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from lplgrad import modalities
from lplgrad.datasets import ImageFiles, Prepared
from lplgrad.datasets.prepared.arrays import SPLITS, DatasetArrays, Examples, open_array, open_dataset, sha256
from lplgrad.datasets.prepared.duplicates import report_duplicates
from lplgrad.datasets.prepared.images import decode_all, first_shape
from lplgrad.datasets.prepared.kinds import missing
from lplgrad.datasets.prepared.originals import ORIGINALS
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import beside, printable, remove, replacing, write_json, write_text
from lplgrad.machine.log import say
from lplgrad.modalities import Modality

UNREADABLE = "unreadable.tsv"  # images that could not be decoded, and why, in the folder of the data set


def write_dataset(
    folder: Path,
    prepared: Prepared,
    threads: int = 1,
    settings: Mapping[str, Any] | None = None,
    originals: Mapping[str, Any] | None = None,
    modality: str = "image",
) -> DatasetArrays:
    """Check what a source returned, decode its files, and write the data set.

    Args:
        folder: of the data set.
        prepared: what the source returned.
        threads: for decoding.
        settings: the source and its options, which identify the data set.
        originals: a listing of the original files, taken before any was read.
        modality: of the examples, a module of ``lplgrad.modalities``.
    """
    # If the preparation fails, the previous data set stays. Under Snakemake it is gone already: Snakemake deletes the
    # outputs of a rule before it runs the command.
    staging = folder / ".new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        kind = modalities.registry.load(modality)
        splits = _write_arrays(folder, staging, prepared, kind, threads, (settings or {}).get("oracle") == "person")
        mean, std = kind.statistics(open_array(staging / "train_inputs.npy", mapped=True), folder)
        remove(folder / "dataset.json")
        for array in staging.iterdir():
            array.replace(folder / array.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    provenance = {**prepared.provenance, **_versions()}
    if isinstance(prepared.train, ImageFiles) and isinstance(prepared.test, ImageFiles):
        provenance["duplicates"] = report_duplicates(folder, prepared.train, prepared.test, threads)
    write_json(folder / "provenance.json", provenance)
    remove(folder / ORIGINALS)
    if originals is not None:
        write_json(folder / ORIGINALS, originals)
    described = {"classes": prepared.classes, "mean": mean, "std": std, "splits": splits}
    fit = prepared.train.fit if isinstance(prepared.train, ImageFiles) else None
    about = {"settings": settings or {}, "modality": modality, "fit": fit}
    write_json(folder / "dataset.json", {**about, **described})
    remove(folder / UNREADABLE)
    return open_dataset(folder)  # also writes the stamps


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that decode images."""
    found = {"pillow": PIL.__version__}
    if missing("HEIC") is None:
        from pillow_heif import __version__

        found["pillow_heif"] = __version__
    return found


def _write_arrays(
    folder: Path, staging: Path, prepared: Prepared, modality: Modality, threads: int, waiting: bool
) -> dict[str, Any]:
    """Check the arrays of both splits and write them to ``staging``. Return their descriptions for ``dataset.json``."""
    parts: dict[str, Examples | ImageFiles] = {split: getattr(prepared, split) for split in SPLITS}
    splits: dict[str, Any] = {}
    shape = first_shape([part for part in parts.values() if isinstance(part, ImageFiles)])
    unreadable: dict[Path, str] = {}
    kinds: Counter[str] = Counter()
    for split, part in parts.items():
        _check_labels(folder, split, part.labels, prepared.classes, waiting and split == "train")
        target = staging / f"{split}_inputs.npy"
        if isinstance(part, Examples):
            with replacing(target) as file:
                np.save(file, part.inputs, allow_pickle=False)
        else:
            decoded, broken = decode_files(target, part, shape, threads, f"{split} images")
            kinds += decoded
            unreadable |= broken
        with replacing(staging / f"{split}_labels.npy") as file:
            np.save(file, part.labels, allow_pickle=False)
        counts = _counts(part.labels, prepared.classes)
        images = open_array(target, mapped=True)
        _check_examples(folder, split, images, part.labels, modality)
        splits[split] = {
            "inputs": list(images.shape),
            "inputs_sha256": sha256(images),
            "labels_sha256": sha256(part.labels),
            "per_class": dict(zip(prepared.classes, counts.tolist(), strict=True)),
        }
    refuse_unreadable(folder, unreadable, sum(len(part.labels) for part in parts.values()))
    if len(kinds) > 1:
        listed = " and ".join(f"{count} of {kind} numbers" for kind, count in sorted(kinds.items()))
        say(
            f"warning: {folder}: images of different kinds of numbers: {listed}; each kind is scaled by its own range, "
            "so check that brightness means the same in all of them"
        )
    return splits


def refuse_unreadable(folder: Path, unreadable: Mapping[Path, str], total: int) -> None:
    """List images that cannot be read, by path with the reason, and raise UserError if there are any."""
    if not unreadable:
        return
    lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in unreadable.items())
    write_text(folder / UNREADABLE, "".join(lines))
    path, reason = next(iter(unreadable.items()))
    raise UserError(
        f"{len(unreadable)} of {total} images cannot be read, the first is {printable(path)} ({reason}); all are "
        f"listed in {folder / UNREADABLE}: repair or remove them and run again"
    )


def decode_files(
    target: Path, files: ImageFiles, shape: tuple[int, ...], threads: int, what: str
) -> tuple[Counter[str], dict[Path, str]]:
    """Decode a split directly into its file, because the images may not fit into memory. Return as ``decode_all``."""
    with beside(target) as temporary:
        # Allocate the space first: if the disk is full, a write into mapped memory raises a signal. macOS cannot do it.
        with temporary.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, len(files.paths) * math.prod(shape) + 4096)
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(files.paths), *shape))
        result = decode_all(files, array, threads, what)
        array.flush()
    return result


def _counts(labels: npt.NDArray[np.int64], classes: list[str]) -> npt.NDArray[np.int64]:
    """Return the number of labels of each class, shape (C,). An unknown label (-1) counts nowhere."""
    return np.bincount(labels[labels >= 0], minlength=len(classes))


def _check_labels(folder: Path, split: str, labels: npt.NDArray[np.int64], classes: list[str], waiting: bool) -> None:
    lowest = -1 if waiting else 0
    if not len(labels) or labels.min() < lowest or labels.max() >= len(classes):
        raise UserError(f"{folder}: {split} labels must be one class from {lowest} to {len(classes) - 1} per image")
    missing = np.flatnonzero(_counts(labels, classes) == 0)
    if split == "train" and not waiting and (len(classes) < 2 or len(missing)):
        raise UserError(f"{folder}: a data set needs two classes or more, each with images in the training pool")


def _check_examples(
    folder: Path, split: str, examples: npt.NDArray[Any], labels: npt.NDArray[np.int64], modality: Modality
) -> None:
    if problem := modality.problem(examples):
        raise UserError(f"{folder}: {split} examples {problem}")
    if len(examples) != len(labels):
        raise UserError(f"{folder}: {len(examples)} {split} examples have {len(labels)} labels")
