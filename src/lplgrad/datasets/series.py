"""Series in a file: an .npz with X (N, T, C) and y (N,), and X_test and y_test if it has a test set."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lplgrad.datasets import Prepared, Source
from lplgrad.datasets._arrays import FileOptions, original, prepared, read_npz, size_of, unavailable


def prepare(options: FileOptions, downloads: Path) -> Prepared:
    """Read the file and split it."""
    train, test = read_npz(Path(options.path).expanduser())
    return prepared(options, train, test, "N, T, C")


SOURCE = Source(
    prepare, FileOptions, "series", unavailable=unavailable, originals=original, size=partial(size_of, prepare)
)
