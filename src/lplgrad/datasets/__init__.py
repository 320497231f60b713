"""Data sets: one module for each source of images, which defines ``SOURCE`` and has the name of the source.

``lplgrad prepare`` stores the images as arrays (see ``prepared``). Modules with a leading ``_`` are shared parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.machine.registry import Registry
from lplgrad.study.validation import Settings

Fit = Literal["crop", "stretch"]


@dataclass(frozen=True)
class ImageFiles:
    """One split of a data set, as files that are not decoded yet."""

    paths: list[Path]  # the N files
    labels: npt.NDArray[np.int64]  # the class of each image, int64, shape (N,)
    side: int | None  # the height and width of all decoded images; None if the files have one size already
    fit: Fit  # ``crop`` scales the shorter side and crops the middle; ``stretch`` scales both sides
    # The numbers that become black and white, for grey pixels that are not unsigned 8-bit numbers; numbers beyond them
    # are clipped. None for the default range of the kind of numbers
    value_range: Sequence[float] | None = None
    # The folder that their names in ``files.csv`` are relative to. None for the folder or archive of the originals
    root: Path | None = None
    skip_unreadable: bool = False  # whether images that cannot be decoded are left out instead of refused


@dataclass(frozen=True)
class Prepared:
    """What a source returns."""

    train: Examples | ImageFiles  # the training pool
    test: Examples | ImageFiles
    classes: list[str]  # their names, in the order of the labels
    provenance: dict[str, Any]  # the origin of the examples and how they were processed, for people


class Listing(NamedTuple):
    """The files of a data set that a person labels, as they lie there now."""

    folder: Path  # to which the names of all files are relative
    class_folders: Path  # the folder of the labelled images, with a folder for each class
    labeled: dict[str, list[Path]]  # by class; a class may have none yet
    unlabeled: list[Path]
    test: dict[str, list[Path]] | None  # by class; None if the test set is drawn from the labelled images
    held_out: float  # the fraction that is drawn then
    split_seed: int  # the seed of that draw
    files: Callable[[list[Path], npt.NDArray[np.int64]], ImageFiles]  # how some of them are decoded, given their labels
    by_ending: Callable[[list[Path]], dict[str, Any]]  # counts files for people, given those that are used


class Size(NamedTuple):
    """The size of a data set before it is prepared, as far as the source knows it."""

    shape: tuple[int, ...]  # of a stored example, as the modality says
    classes: int
    pool: int | None  # examples in the training pool
    test: int  # examples in the test set


@dataclass(frozen=True)
class Source:
    """A source of images. Each function takes the source's options, and most take the folder for downloads."""

    prepare: Callable[[Any, Path], Prepared]  # returns the images
    options: type[Settings]  # the class of the options, which are keys of the data set's row in the configuration
    modality: str = "image"  # of its examples: a module of ``lplgrad.modalities``
    # returns the number of images in the training pool, or None if only the files determine it
    pool_size: Callable[[Any], int | None] = lambda options: None
    # returns quickly why the images cannot be read or downloaded, or None if they can
    unavailable: Callable[[Any, Path], str | None] = lambda options, downloads: None
    # returns the user's folder or archive that contains the images, or None if there is none
    originals: Callable[[Any, Path], Path | None] = lambda options, downloads: None
    # returns quickly the size of the data set, or None if only its preparation determines it
    size: Callable[[Any, Path], Size | None] = lambda options, downloads: None
    # lists the files for a person who labels; None if the source has no unlabelled examples
    listing: Callable[[Any], Listing] | None = None


registry = Registry[Source](__name__, __path__, "SOURCE")
