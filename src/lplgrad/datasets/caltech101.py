"""Caltech-101 (Fei-Fei et al. 2004): 8,677 photographs of many sizes in 101 classes, without the background class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from lplgrad.datasets import Fit, ImageFiles, Prepared, Size, Source
from lplgrad.datasets._split import stratified_split
from lplgrad.datasets._torchvision import download, missing
from lplgrad.machine.errors import UserError
from lplgrad.study.validation import Count, Settings

IMAGES = 8677
PAGE = "https://data.caltech.edu/records/mzrjq-6wc02"
FOLDER = "101_ObjectCategories"


class Options(Settings):
    """How the photographs are scaled and split. There is no official split.

    Attributes:
        image_size: side in pixels of the square that each photograph becomes.
        fit: ``crop`` scales the shorter side and crops the middle; ``stretch`` scales both sides.
        test_images: how many images are held out, drawn at random with the classes in proportion.
        split_seed: the seed of that draw.
    """

    image_size: Count = 224
    fit: Fit = "crop"
    test_images: Annotated[int, Field(ge=101, le=IMAGES - 101)] = 2877
    split_seed: Annotated[int, Field(ge=0)] = 0


def prepare(options: Options, downloads: Path) -> Prepared:
    """List and split the photographs, and download them if they are missing."""
    import torchvision  # slow, and the Snakefile imports this module

    found = download(
        "Caltech-101",
        f"the folder {FOLDER} in {downloads / 'caltech101'}",
        downloads,
        lambda: torchvision.datasets.Caltech101(downloads, download=True),
    )
    if len(found.y) != IMAGES:
        folder = downloads / "caltech101" / FOLDER
        raise UserError(f"{folder}: {len(found.y)} images instead of {IMAGES}; delete the folder and run again")
    labels = np.array(found.y, dtype=np.int64)
    paths = [
        Path(found.root) / FOLDER / found.categories[label] / f"image_{number:04d}.jpg"
        for label, number in zip(found.y, found.index, strict=True)
    ]
    train, test = (
        ImageFiles([paths[index] for index in part], labels[part], options.image_size, options.fit)
        for part in stratified_split(labels, found.categories, options.test_images, options.split_seed)
    )
    provenance = {"from": PAGE, "torchvision": torchvision.__version__, **options.model_dump()}
    return Prepared(train, test, list(found.categories), provenance)


def unavailable(options: Options, downloads: Path) -> str | None:
    """Return why the photographs cannot be read or downloaded."""
    folder = downloads / "caltech101"
    placed = (folder / FOLDER).exists()
    return None if placed else missing(f"{PAGE}/files/caltech-101.zip", f"the folder {FOLDER} in {folder}")


def size(options: Options, downloads: Path) -> Size:
    """Return the size, which the options determine."""
    return Size((options.image_size, options.image_size, 3), 101, IMAGES - options.test_images, options.test_images)


SOURCE = Source(
    prepare, Options, pool_size=lambda options: IMAGES - options.test_images, unavailable=unavailable,
    originals=lambda options, downloads: downloads / "caltech101" / FOLDER, size=size,
)  # fmt: skip
