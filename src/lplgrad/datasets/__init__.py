"""Data sets: one module for each source of images, found by its file's name.

A module defines ``SOURCE``. ``lplgrad prepare`` asks it for the images once; from then on every data set is the same
arrays on disk (``lplgrad.arrays``), whatever it came from.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lplgrad.validation import Settings


@dataclass(frozen=True)
class Images:
    """One split of a data set.

    Attributes:
        images: uint8, shape (N, H, W, C) with 1 or 3 channels.
        labels: class of each image, int64, shape (N,).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """A data set as its source delivers it.

    Attributes:
        train: the pool that labels are bought from.
        test: what accuracy is measured on.
        classes: their names, in the order of the labels.
        provenance: where the images came from and what was done to them, for people.
    """

    train: Images
    test: Images
    classes: list[str]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where images come from.

    Attributes:
        prepare: from the options and the folder for downloads to the images.
        options: the source's options, which stand in the data set's row of the configuration.
        pool_size: images in the training pool, where the options tell it before anything is read, else None.
    """

    prepare: Callable[[Any, Path], Prepared]
    options: type[Settings]
    pool_size: Callable[[Mapping[str, Any]], int | None] = lambda options: None


def names() -> list[str]:
    """The sources there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Source:
    """The source of a name that ``names`` lists."""
    return cast(Source, importlib.import_module(f"{__name__}.{name}").SOURCE)
