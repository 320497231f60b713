"""CIFAR-10 and CIFAR-100, as torchvision downloads them from their author's page and checks them by MD5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lplgrad.datasets import Images, Prepared
from lplgrad.datasets._torchvision import download, unreachable
from lplgrad.study.validation import Settings

Name = Literal["CIFAR10", "CIFAR100"]
FILES = {
    "CIFAR10": ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "CIFAR100": ("cifar-100-python.tar.gz", "cifar-100-python"),
}
URL = "https://www.cs.toronto.edu/~kriz"


class NoOptions(Settings):
    """There is nothing to choose."""


def prepare_cifar(name: Name) -> Callable[[NoOptions, Path], Prepared]:
    """The function that reads one of the two."""

    def prepare(options: NoOptions, downloads: Path) -> Prepared:
        import torchvision

        kind = getattr(torchvision.datasets, name)
        archive, _ = FILES[name]

        def load() -> list[Any]:
            return [kind(downloads, train=train, download=True) for train in (True, False)]

        train, test = download(name, f"{archive} in {downloads}", downloads, load)
        return Prepared(
            train=Images(train.data, np.array(train.targets, dtype=np.int64)),
            test=Images(test.data, np.array(test.targets, dtype=np.int64)),
            classes=list(train.classes),
            provenance={"from": f"{URL}/{archive}", "md5": kind.tgz_md5, "torchvision": torchvision.__version__},
        )

    return prepare


def unavailable_cifar(name: Name) -> Callable[[NoOptions, Path], str | None]:
    """The function that tells why one of the two cannot be had."""

    def unavailable(options: NoOptions, downloads: Path) -> str | None:
        if any((downloads / place).exists() for place in FILES[name]):
            return None
        reason = unreachable(f"{URL}/{FILES[name][0]}")
        return reason and f"{reason}; place {FILES[name][0]} in {downloads}"

    return unavailable
