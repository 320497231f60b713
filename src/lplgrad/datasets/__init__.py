"""Data sets: one module for each source of images, found by its file's name.

A module defines ``SOURCE``. ``lplgrad prepare`` reads the images of a source once. From then on every data set is the
same arrays on disk (``prepared``), whatever it came from. Modules whose name begins with ``_`` are shared parts.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from lplgrad.study.validation import Settings

Fit = Literal["crop", "stretch"]


@dataclass(frozen=True)
class Images:
    """One split of a data set, as an array.

    Attributes:
        images: uint8, shape (N, H, W, C) with 1 or 3 channels.
        labels: class of each image, int64, shape (N,).
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageFiles:
    """One split of a data set, as files that are still to be decoded.

    Attributes:
        paths: the N files.
        labels: class of each image, int64, shape (N,).
        side: height and width to bring all of them to; None where they are all of one size.
        fit: ``crop`` scales the shorter side and crops the middle, ``stretch`` scales both sides.
        value_range: the numbers that become black and white, in files whose grey pixels are not unsigned 8-bit numbers;
            what lies beyond is cut off. None where the kind of numbers says it.
    """

    paths: list[Path]
    labels: npt.NDArray[np.int64]
    side: int | None
    fit: Fit
    value_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Prepared:
    """A data set as its source delivers it.

    Attributes:
        train: the pool that labels are bought from.
        test: what accuracy is measured on.
        classes: their names, in the order of the labels.
        provenance: where the images came from and what was done to them, for people.
    """

    train: Images | ImageFiles
    test: Images | ImageFiles
    classes: list[str]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Where images come from.

    Attributes:
        prepare: from the options and the folder for downloads to the images.
        options: the source's options, which stand in the data set's row of the configuration.
        pool_size: images in the training pool, where the options tell it before anything is read, else None.
        unavailable: why the images cannot be had, told in a moment and without reading them; None where they can.
        originals: the folder or archive of the user's that the images are read from; None if there is none.
    """

    prepare: Callable[[Any, Path], Prepared]
    options: type[Settings]
    pool_size: Callable[[Any], int | None] = lambda options: None
    unavailable: Callable[[Any, Path], str | None] = lambda options, downloads: None
    originals: Callable[[Any, Path], Path | None] = lambda options, downloads: None


def names() -> list[str]:
    """The sources there are."""
    return sorted(
        module.name for module in pkgutil.iter_modules(__path__) if not (module.ispkg or module.name.startswith("_"))
    )


def load(name: str) -> Source:
    """The source of a name that ``names`` lists."""
    return cast(Source, importlib.import_module(f"{__name__}.{name}").SOURCE)
