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

from lplgrad.datasets import ImageFiles, Prepared
from lplgrad.datasets.prepared.arrays import SPLITS, DatasetArrays, Images, open_array, open_dataset, sha256
from lplgrad.datasets.prepared.images import decode_all, first_shape
from lplgrad.datasets.prepared.originals import ORIGINALS
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import beside, printable, remove, replacing, write_json, write_text
from lplgrad.machine.log import say

UNREADABLE = "unreadable.tsv"  # images that could not be decoded, and why, in the folder of the data set


def write_dataset(
    folder: Path,
    prepared: Prepared,
    threads: int = 1,
    settings: Mapping[str, Any] | None = None,
    originals: Mapping[str, Any] | None = None,
) -> DatasetArrays:
    """Check what a source returned, decode its files, and write the data set.

    Args:
        folder: of the data set.
        prepared: what the source returned.
        threads: for decoding.
        settings: the source and its options, which identify the data set.
        originals: a listing of the original files, taken before any was read.
    """
    # If the preparation fails, the previous data set stays. Under Snakemake it is gone already: Snakemake deletes the
    # outputs of a rule before it runs the command.
    staging = folder / ".new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        splits = _write_arrays(folder, staging, prepared, threads)
        histograms = _histograms(open_array(staging / "train_images.npy", mapped=True))
        _warn_of_little_contrast(folder, histograms)
        mean, std = _statistics(histograms)
        remove(folder / "dataset.json")
        for array in staging.iterdir():
            array.replace(folder / array.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    write_json(folder / "provenance.json", {**prepared.provenance, "pillow": PIL.__version__})
    remove(folder / ORIGINALS)
    if originals is not None:
        write_json(folder / ORIGINALS, originals)
    described = {"classes": prepared.classes, "mean": mean, "std": std, "splits": splits}
    write_json(folder / "dataset.json", {"settings": settings or {}, **described})
    remove(folder / UNREADABLE)
    return open_dataset(folder)  # also writes the stamps


def _write_arrays(folder: Path, staging: Path, prepared: Prepared, threads: int) -> dict[str, Any]:
    """Check the arrays of both splits and write them to ``staging``. Return their descriptions for ``dataset.json``."""
    parts: dict[str, Images | ImageFiles] = {split: getattr(prepared, split) for split in SPLITS}
    splits: dict[str, Any] = {}
    shape = first_shape([part for part in parts.values() if isinstance(part, ImageFiles)])
    unreadable: dict[Path, str] = {}
    kinds: Counter[str] = Counter()
    for split, part in parts.items():
        _check_labels(folder, split, part.labels, prepared.classes)
        target = staging / f"{split}_images.npy"
        if isinstance(part, Images):
            with replacing(target) as file:
                np.save(file, part.images, allow_pickle=False)
        else:
            decoded, broken = _decode(target, part, shape, threads, f"{split} images")
            kinds += decoded
            unreadable |= broken
        with replacing(staging / f"{split}_labels.npy") as file:
            np.save(file, part.labels, allow_pickle=False)
        counts = np.bincount(part.labels, minlength=len(prepared.classes))
        images = open_array(target, mapped=True)
        _check_images(folder, split, images, part.labels)
        splits[split] = {
            "images": list(images.shape),
            "images_sha256": sha256(images),
            "labels_sha256": sha256(part.labels),
            "per_class": dict(zip(prepared.classes, counts.tolist(), strict=True)),
        }
    if unreadable:
        lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in unreadable.items())
        write_text(folder / UNREADABLE, "".join(lines))
        path, reason = next(iter(unreadable.items()))
        raise UserError(
            f"{len(unreadable)} of {sum(len(part.labels) for part in parts.values())} images cannot be read, the first "
            f"is {printable(path)} ({reason}); all are listed in {folder / UNREADABLE}: repair or remove them and run "
            "again"
        )
    if len(kinds) > 1:
        listed = " and ".join(f"{count} of {kind} numbers" for kind, count in sorted(kinds.items()))
        say(
            f"warning: {folder}: images of different kinds of numbers: {listed}; each kind is scaled by its own range, "
            "so check that brightness means the same in all of them"
        )
    return splits


def _decode(
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


def _check_labels(folder: Path, split: str, labels: npt.NDArray[np.int64], classes: list[str]) -> None:
    if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"{folder}: {split} labels must be one class from 0 to {len(classes) - 1} per image")
    missing = np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)
    if split == "train" and (len(classes) < 2 or len(missing)):
        raise UserError(f"{folder}: a data set needs two classes or more, each with images in the training pool")


def _check_images(folder: Path, split: str, images: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(f"{folder}: {split} images must be uint8 of shape (N, H, W, 1 or 3), not {images.shape}")
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} {split} images have {len(labels)} labels")


def _histograms(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the number of pixels with each level in each channel, shape (C, 256)."""
    histograms = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for channel, histogram in enumerate(histograms):
        for block in np.array_split(images, max(1, images[..., 0].size >> 22)):
            histogram += np.bincount(block[..., channel].ravel(), minlength=256)
    return histograms


def _statistics(histograms: npt.NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the mean and standard deviation of each channel over all pixels, for images scaled to [0, 1]."""
    levels = np.arange(256) / 255
    means, deviations = [], []
    for histogram in histograms:
        weights = histogram / histogram.sum()
        mean = float(weights @ levels)
        means.append(mean)
        # A channel without contrast is centred, but not scaled.
        deviations.append(float(np.sqrt(weights @ (levels - mean) ** 2)) or 1.0)
    return means, deviations


def _warn_of_little_contrast(folder: Path, histograms: npt.NDArray[np.int64]) -> None:
    """Warn if the pixels, without the darkest and brightest 0.1 %, use a quarter of the levels or less.

    This happens if 12-bit numbers are stored in 16 bits: they keep 17 of 256 levels. Defective pixels cannot hide it.
    """
    shares = np.cumsum(histograms.sum(axis=0)) / histograms.sum()
    low, high = (int(np.searchsorted(shares, share)) for share in (0.001, 0.999))
    used = np.flatnonzero(histograms.any(axis=0))
    if used[-1] == used[0]:
        say(f"warning: {folder}: every pixel of the training images has the same level, {used[0]} of 255")
    elif high - low <= 64:
        say(
            f"warning: {folder}: almost all pixels of the training images have levels from {low} to {high} of 255; if "
            "their files hold more than 8 bits a pixel, set value_range to the range of numbers that they use"
        )
