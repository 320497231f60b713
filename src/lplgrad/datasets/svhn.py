"""SVHN (Netzer et al. 2011): house numbers, 73,257 training and 26,032 test images of 32x32 pixels; without "extra"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lplgrad.datasets import Images, Prepared, Source
from lplgrad.datasets._torchvision import download, unreachable
from lplgrad.study.validation import Settings

URL = "http://ufldl.stanford.edu/housenumbers"
FILES = ("train_32x32.mat", "test_32x32.mat")


class Options(Settings):
    """There is nothing to choose."""


def prepare(options: Options, downloads: Path) -> Prepared:
    """Read both splits, downloading them where they are missing."""
    import torchvision

    folder = downloads / "svhn"

    def load() -> list[Any]:
        return [torchvision.datasets.SVHN(folder, split=split, download=True) for split in ("train", "test")]

    train, test = download("SVHN", f"{' and '.join(FILES)} in {folder}", folder, load)
    checksums = {name: md5 for _, name, md5 in torchvision.datasets.SVHN.split_list.values() if name in FILES}
    return Prepared(
        train=_images(train),
        test=_images(test),
        classes=[str(digit) for digit in range(10)],
        provenance={"from": URL, "md5": checksums, "torchvision": torchvision.__version__},
    )


def _images(split: Any) -> Images:
    return Images(np.ascontiguousarray(split.data.transpose(0, 2, 3, 1)), split.labels.astype(np.int64))


def unavailable(options: Options, downloads: Path) -> str | None:
    """Without the files or a connection."""
    if all((downloads / "svhn" / name).exists() for name in FILES):
        return None
    reason = unreachable(f"{URL}/{FILES[0]}")
    return reason and f"{reason}; place {' and '.join(FILES)} in {downloads / 'svhn'}"


SOURCE = Source(prepare, Options, pool_size=lambda options: 73_257, unavailable=unavailable)
