"""CIFAR-10 and CIFAR-100. Torchvision downloads them from their author's page and checks their MD5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lplgrad.datasets import Prepared, Size, Source
from lplgrad.datasets._torchvision import download, missing
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.study.validation import NoOptions

URL = "https://www.cs.toronto.edu/~kriz"


def cifar(name: str, archive: str, folder: str, classes: int) -> Source:
    """Return the source of one of the two: torchvision's class, the archive, its folder, and the number of classes."""

    def prepare(options: NoOptions, downloads: Path) -> Prepared:
        import torchvision  # slow, and the Snakefile imports this module

        kind = getattr(torchvision.datasets, name)

        def load() -> list[Any]:
            return [kind(downloads, train=train, download=True) for train in (True, False)]

        train, test = download(name, f"{archive} in {downloads}", downloads, load)
        return Prepared(
            train=Examples(train.data, np.array(train.targets, dtype=np.int64)),
            test=Examples(test.data, np.array(test.targets, dtype=np.int64)),
            classes=list(train.classes),
            provenance={"from": f"{URL}/{archive}", "md5": kind.tgz_md5, "torchvision": torchvision.__version__},
        )

    def unavailable(options: NoOptions, downloads: Path) -> str | None:
        placed = (downloads / archive).exists() or (downloads / folder).exists()
        return None if placed else missing(f"{URL}/{archive}", f"{archive} in {downloads}")

    size = Size((32, 32, 3), classes, 50_000, 10_000)
    return Source(
        prepare, NoOptions, pool_size=lambda options: size.pool, unavailable=unavailable,
        size=lambda options, downloads: size,
    )  # fmt: skip
