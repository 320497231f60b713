"""SVHN (Netzer et al. 2011): house numbers, 73,257 training and 26,032 test images of 32x32 pixels; without "extra"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lplgrad.datasets import Prepared, Size, Source
from lplgrad.datasets._torchvision import download, missing
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.study.validation import NoOptions

URL = "http://ufldl.stanford.edu/housenumbers"
FILES = ("train_32x32.mat", "test_32x32.mat")


def prepare(options: NoOptions, downloads: Path) -> Prepared:
    """Read both splits, and download them if they are missing."""
    import torchvision  # slow, and the Snakefile imports this module

    folder = downloads / "svhn"

    def load() -> list[Any]:
        return [torchvision.datasets.SVHN(folder, split=split, download=True) for split in ("train", "test")]

    train, test = (
        Examples(np.ascontiguousarray(split.data.transpose(0, 2, 3, 1)), split.labels.astype(np.int64))
        for split in download("SVHN", f"{' and '.join(FILES)} in {folder}", folder, load)
    )
    checksums = {name: md5 for _, name, md5 in torchvision.datasets.SVHN.split_list.values() if name in FILES}
    provenance = {"from": URL, "md5": checksums, "torchvision": torchvision.__version__}
    return Prepared(train, test, [str(digit) for digit in range(10)], provenance)


def unavailable(options: NoOptions, downloads: Path) -> str | None:
    """Return why the files cannot be read or downloaded."""
    folder = downloads / "svhn"
    placed = all((folder / name).exists() for name in FILES)
    return None if placed else missing(f"{URL}/{FILES[0]}", f"{' and '.join(FILES)} in {folder}")


SIZE = Size((32, 32, 3), 10, 73_257, 26_032)
SOURCE = Source(
    prepare, NoOptions, pool_size=lambda options: SIZE.pool, unavailable=unavailable,
    size=lambda options, downloads: SIZE,
)  # fmt: skip
