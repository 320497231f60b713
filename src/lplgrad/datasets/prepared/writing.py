"""Write a prepared data set: check what a source returned, decode its files, and write arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from lplgrad import modalities
from lplgrad.datasets import ImageFiles, Prepared
from lplgrad.datasets.prepared.arrays import SPLITS, DatasetArrays, Examples, open_array, open_dataset, sha256
from lplgrad.datasets.prepared.duplicates import report_duplicates
from lplgrad.datasets.prepared.images import Decoded, first_shape
from lplgrad.datasets.prepared.kinds import missing
from lplgrad.datasets.prepared.originals import ORIGINALS
from lplgrad.datasets.prepared.staging import Staging, key_of, without_rows
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable, remove, replacing, write_json, write_text
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
    unlabeled: bool = False,
    name_files: Callable[[Mapping[str, ImageFiles]], None] | None = None,
) -> DatasetArrays:
    """Check what a source returned, decode its files, and write the data set.

    Args:
        folder: of the data set.
        prepared: what the source returned.
        threads: for decoding.
        settings: the source and its options, which identify the data set.
        originals: a listing of the original files, taken before any was read.
        modality: of the examples, a module of ``lplgrad.modalities``.
        unlabeled: whether images of the pool may lack a label (-1), which a person gives later.
        name_files: is called with the files of each split, without those that were left out, before the data set
            counts as prepared.
    """
    kind = modalities.registry.load(modality)
    parts: dict[str, Examples | ImageFiles] = {split: getattr(prepared, split) for split in SPLITS}
    files = {split: part for split, part in parts.items() if isinstance(part, ImageFiles)}
    shape = first_shape(list(files.values()))
    # If the preparation fails, the previous data set stays. Under Snakemake it is gone already: Snakemake deletes the
    # outputs of a rule before it runs the command.
    staging = Staging(folder / ".new", key_of(files, settings, originals, shape, _versions()))
    try:
        inputs, parts, unreadable = write_inputs(folder, staging, parts, prepared.classes, shape, threads, unlabeled)
        splits = _write_labels(folder, staging.folder, inputs, parts, prepared.classes, kind)
        mean, std = kind.statistics(open_array(inputs["train"], mapped=True), folder)
        remove(folder / "dataset.json")
        for split in SPLITS:
            inputs[split].replace(folder / f"{split}_inputs.npy")
            (staging.folder / f"{split}_labels.npy").replace(folder / f"{split}_labels.npy")
    except Exception:
        staging.remove()  # but not if the process is killed or interrupted: the next one goes on
        raise
    staging.remove()
    provenance = {**prepared.provenance, **_versions()}
    train, test = parts["train"], parts["test"]
    if name_files is not None:
        name_files({split: part for split, part in parts.items() if isinstance(part, ImageFiles)})
    if not unlabeled and isinstance(train, ImageFiles) and isinstance(test, ImageFiles):
        provenance["duplicates"] = report_duplicates(folder, train, test, threads)
    if unreadable:
        provenance["unreadable"] = unreadable
    write_json(folder / "provenance.json", provenance)
    remove(folder / ORIGINALS)
    if originals is not None:
        write_json(folder / ORIGINALS, originals)
    described = {"classes": prepared.classes, "mean": mean, "std": std, "splits": splits}
    fit = prepared.train.fit if isinstance(prepared.train, ImageFiles) else None
    about = {"settings": settings or {}, "modality": modality, "fit": fit}
    write_json(folder / "dataset.json", {**about, **described})
    if not unreadable:
        remove(folder / UNREADABLE)
    return open_dataset(folder)  # also writes the stamps


def _versions() -> dict[str, str]:
    """Return the versions of the libraries that decode images."""
    found = {"pillow": PIL.__version__}
    if missing("HEIC") is None:
        from pillow_heif import __version__

        found["pillow_heif"] = __version__
    return found


def write_inputs(
    folder: Path,
    staging: Staging,
    parts: Mapping[str, Examples | ImageFiles],
    classes: list[str],
    shape: tuple[int, ...],
    threads: int,
    unlabeled: bool = False,
) -> tuple[dict[str, Path], dict[str, Examples | ImageFiles], int]:
    """Write the examples of some splits to files in ``staging``. ``unlabeled``: the pool may lack labels (-1).

    Returns:
        The file of each split, the splits without the images that are left out, and the number of these.
    """
    inputs: dict[str, Path] = {}
    decoded: dict[str, Decoded] = {}
    for split, part in parts.items():
        _check_labels(folder, split, part.labels, classes, unlabeled and split == "train")
        if isinstance(part, Examples):
            inputs[split] = staging.folder / f"{split}_inputs.npy"
            with replacing(inputs[split]) as file:
                np.save(file, part.inputs, allow_pickle=False)
        else:
            inputs[split], decoded[split] = staging.decode(split, part, shape, threads)
    kept, count = dict(parts), _report_unreadable(folder, parts, decoded)
    for split, part in parts.items():
        if isinstance(part, ImageFiles) and (left_out := decoded[split].unreadable.keys()):
            rows = [row for row in range(len(part.paths)) if row not in left_out]
            kept[split] = replace(part, paths=[part.paths[row] for row in rows], labels=part.labels[rows])
            _check_labels(folder, split, kept[split].labels, classes, unlabeled and split == "train")
            inputs[split] = without_rows(inputs[split], set(left_out))
    kinds = sum((Counter(one.kinds) for one in decoded.values()), Counter[str]())
    if len(kinds) > 1:
        listed = " and ".join(f"{count} of {kind} numbers" for kind, count in sorted(kinds.items()))
        say(
            f"warning: {folder}: images of different kinds of numbers: {listed}; each kind is scaled by its own range, "
            "so check that brightness means the same in all of them"
        )
    return inputs, kept, count


def _report_unreadable(folder: Path, parts: Mapping[str, Examples | ImageFiles], decoded: Mapping[str, Decoded]) -> int:
    """List the images that cannot be read in a file, and return their number.

    Raises:
        UserError: there are some, and they are not to be left out.
    """
    unreadable: dict[Path, str] = {}
    skip = False
    for split, done in decoded.items():
        files = parts[split]
        assert isinstance(files, ImageFiles)
        skip = files.skip_unreadable
        unreadable |= dict(sorted((files.paths[position], reason) for position, reason in done.unreadable.items()))
    if not unreadable:
        return 0
    lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in unreadable.items())
    write_text(folder / UNREADABLE, "".join(lines))
    path, reason = next(iter(unreadable.items()))
    listed = f"{printable(path)} ({reason}); all are listed in {folder / UNREADABLE}"
    said = f"{len(unreadable)} of {sum(len(part.labels) for part in parts.values())} images cannot be read"
    if not skip:
        raise UserError(f"{said}, the first is {listed}: repair or remove them and run again")
    say(f"warning: {folder}: {said} and are left out, the first is {listed}")
    return len(unreadable)


def _write_labels(
    folder: Path,
    staging: Path,
    inputs: Mapping[str, Path],
    parts: Mapping[str, Examples | ImageFiles],
    classes: list[str],
    modality: Modality,
) -> dict[str, Any]:
    """Check the arrays of both splits and write the labels. Return the descriptions for ``dataset.json``."""
    splits: dict[str, Any] = {}
    for split, part in parts.items():
        with replacing(staging / f"{split}_labels.npy") as file:
            np.save(file, part.labels, allow_pickle=False)
        counts = _counts(part.labels, classes)
        images = open_array(inputs[split], mapped=True)
        _check_examples(folder, split, images, part.labels, modality)
        splits[split] = {
            "inputs": list(images.shape),
            "inputs_sha256": sha256(images),
            "labels_sha256": sha256(part.labels),
            "per_class": dict(zip(classes, counts.tolist(), strict=True)),
        }
    return splits


def _counts(labels: npt.NDArray[np.int64], classes: list[str]) -> npt.NDArray[np.int64]:
    """Return the number of labels of each class, shape (C,). An unknown label (-1) counts nowhere."""
    return np.bincount(labels[labels >= 0], minlength=len(classes))


def _check_labels(folder: Path, split: str, labels: npt.NDArray[np.int64], classes: list[str], unlabeled: bool) -> None:
    lowest = -1 if unlabeled else 0
    outside = labels[(labels < lowest) | (labels >= len(classes))]
    if len(outside) or not (len(labels) or unlabeled):
        raise UserError(f"{folder}: {split} labels must be one class from {lowest} to {len(classes) - 1} per image")
    missing = np.flatnonzero(_counts(labels, classes) == 0)
    if split == "train" and not unlabeled and (len(classes) < 2 or len(missing)):
        raise UserError(f"{folder}: a data set needs two classes or more, each with images in the training pool")


def _check_examples(
    folder: Path, split: str, examples: npt.NDArray[Any], labels: npt.NDArray[np.int64], modality: Modality
) -> None:
    if problem := modality.problem(examples):
        raise UserError(f"{folder}: {split} examples {problem}")
    if len(examples) != len(labels):
        raise UserError(f"{folder}: {len(examples)} {split} examples have {len(labels)} labels")
