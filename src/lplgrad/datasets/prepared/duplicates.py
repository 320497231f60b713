"""Find images that occur more than once in a data set, byte for byte, where that spoils a measurement."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lplgrad.datasets import ImageFiles
from lplgrad.machine.files import file_digest, printable
from lplgrad.machine.log import say


def report_duplicates(folder: Path, train: ImageFiles, test: ImageFiles, threads: int) -> dict[str, Any]:
    """Warn of images that are in both splits or in several classes. Nothing is removed.

    Only files that have the size of another one are read.

    Args:
        folder: of the data set, for messages.
        train, test: the images of the training pool and of the test set.
        threads: for reading.

    Returns:
        The number of test images that are in the training pool too, and of images that are in another class too, each
        with two files as an example if there are any.
    """
    paths = [*train.paths, *test.paths]
    labels = [*train.labels.tolist(), *test.labels.tolist()]
    in_both: list[tuple[int, int]] = []  # positions of a test image, and of the same image in the pool
    in_classes: list[tuple[int, int]] = []  # positions of an image, and of the same image in another class
    for same in _same_bytes(paths, threads):
        pooled = [position for position in same if position < len(train.paths)]
        in_both += [(position, pooled[0]) for position in same if pooled and position >= len(train.paths)]
        if len({labels[position] for position in same}) > 1:
            others = ((one, next(other for other in same if labels[other] != labels[one])) for one in same)
            in_classes += others
    found = {
        "test_images_in_pool": _described(paths, in_both),
        "images_in_several_classes": _described(paths, in_classes),
    }
    if in_both:
        say(
            f"warning: {folder}: {len(in_both)} of {len(test.paths)} test images are in the training pool too, byte "
            f"for byte, as {' and '.join(found['test_images_in_pool']['example'])}; remove one of each two"
        )
    if in_classes:
        say(
            f"warning: {folder}: {len(in_classes)} images are in another class too, byte for byte, as "
            f"{' and '.join(found['images_in_several_classes']['example'])}; one of their labels is wrong"
        )
    return found


def _described(paths: list[Path], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    example = {"example": [printable(paths[position]) for position in min(pairs)]} if pairs else {}
    return {"count": len(pairs), **example}


def _same_bytes(paths: list[Path], threads: int) -> list[list[int]]:
    """Return the positions of files with the same bytes, as groups of two or more."""
    sizes: defaultdict[int, list[int]] = defaultdict(list)
    for position, path in enumerate(paths):
        sizes[path.stat().st_size].append(position)
    alike = [position for group in sizes.values() if len(group) > 1 for position in group]
    digests: defaultdict[str, list[int]] = defaultdict(list)
    with ThreadPoolExecutor(threads) as pool:
        for position, digest in zip(alike, pool.map(lambda position: file_digest(paths[position]), alike), strict=True):
            digests[digest].append(position)
    return [group for group in digests.values() if len(group) > 1]
