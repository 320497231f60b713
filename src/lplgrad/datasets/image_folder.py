"""A folder of images: classes are its top folders, images lie at any depth below them.

Where the folder has the two folders ``train`` and ``test``, those are the splits and the classes are below each;
otherwise a test set is drawn, the classes in proportion. The path may also be an archive of such a folder (.zip, .tar,
.tar.gz, .tar.xz), which is unpacked once below the folder for downloads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from lplgrad.datasets import Fit, ImageFiles, Prepared, Source
from lplgrad.datasets._archives import unpack
from lplgrad.datasets._split import stratified_split
from lplgrad.errors import UserError
from lplgrad.progress import say
from lplgrad.validation import Count, Number, Settings, problem_below

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


class Options(Settings):
    """Where the folder is and how its images are brought to one size and split.

    Attributes:
        path: of the folder or archive; ``~`` is the home folder.
        image_size: side in pixels of the square that the images become; None where all are of one size already.
        fit: ``crop`` scales the shorter side to it and crops the middle, ``stretch`` scales both sides.
        test_images: how many images are held out, where there are no folders ``train`` and ``test``.
        test_fraction: the same as a fraction of all; give one of the two at most.
        split_seed: of the draw.
        value_range: the two numbers that become black and white, for grey images whose pixels are not unsigned 8-bit
            numbers; what lies beyond is cut off. None takes the range of the kind of numbers: [0, 65535] for unsigned
            16-bit and [0, 1] for floating-point numbers. Signed and 32-bit numbers need it.
    """

    path: Annotated[str, Field(min_length=1)]
    image_size: Count | None = None
    fit: Fit = "crop"
    test_images: Count | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Annotated[int, Field(ge=0)] = 0
    value_range: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Options:
        if self.test_images is not None and self.test_fraction is not None:
            raise problem_below("test_fraction", "test_images is given too; give one of them")
        return self

    @model_validator(mode="after")
    def _range_rises(self) -> Options:
        if self.value_range is not None and not 1e-30 < self.value_range[1] - self.value_range[0] < 1e30:
            raise problem_below("value_range", f"must be [low, high] with low below high, not {self.value_range}")
        return self


def prepare(options: Options, downloads: Path) -> Prepared:
    """List the images and split them."""
    folder = _unpacked(Path(options.path).expanduser(), downloads)
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, classes = _listed(folder / "train")
        test, test_classes = _listed(folder / "test")
        unknown = sorted(set(test_classes) - set(classes))
        if unknown:
            raise UserError(f"{folder / 'test'}: class {unknown[0]!r} is not among those of {folder / 'train'}")
        splits = [_files(options, part, classes) for part in (train, test)]
    else:
        images, classes = _listed(folder)
        everything = _files(options, images, classes)
        held_out = options.test_images or round((options.test_fraction or 0.2) * len(images))
        splits = [
            replace(everything, paths=[everything.paths[index] for index in part], labels=everything.labels[part])
            for part in stratified_split(everything.labels, classes, held_out, options.split_seed)
        ]
    return Prepared(splits[0], splits[1], classes, {"from": "a folder of images", **options.model_dump()})


def _files(options: Options, images: list[tuple[Path, str]], classes: list[str]) -> ImageFiles:
    position = {name: number for number, name in enumerate(classes)}
    labels = np.array([position[name] for _, name in images], dtype=np.int64)
    value_range = None if options.value_range is None else (options.value_range[0], options.value_range[1])
    return ImageFiles([path for path, _ in images], labels, options.image_size, options.fit, value_range)


def _listed(folder: Path) -> tuple[list[tuple[Path, str]], list[str]]:
    """The images below a folder with their classes, in the order of their names, and the classes.

    Raises:
        UserError: the folder is missing, a class has no image, or there are fewer than two classes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; place the images there, a folder for each class")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    images: list[tuple[Path, str]] = []
    others: list[Path] = []
    for name in classes:
        before = len(images)
        for path in _files_below(folder / name):
            if path.suffix.lower() in ENDINGS:
                images.append((path, name))
            else:
                others.append(path)
        if len(images) == before:
            raise UserError(f"{folder / name}: a class without images; place some there or remove the folder")
    if len(classes) < 2:
        raise UserError(f"{folder}: {len(classes)} class(es); a folder for each of two classes or more is needed")
    if others:
        say(f"{folder}: passed over {len(others)} file(s) that are no images by their names, as {others[0].name}")
    return images, classes


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder, links followed, hidden ones left out, in the order of their names."""
    found = []
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [name for name in folders if not name.startswith(".")] if real not in seen else []
        if real not in seen:
            found += [Path(place, name) for name in files if not name.startswith(".")]
        seen.add(real)
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def _unpacked(path: Path, downloads: Path) -> Path:
    """The folder itself, or where an archive of it was unpacked. A single folder at the top of an archive is entered.

    Raises:
        UserError: see ``unpack``.
    """
    if not path.is_file():
        return path
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = downloads / f"{path.name}.{digest}"
    if not target.exists():
        beside = downloads / f".{path.name}.tmp"  # of an earlier process, or of nobody: this one has the folder's lock
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            unpack(path, beside)
            os.sync()  # for ever after what is there is taken to be whole
            beside.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    entries = [entry for entry in target.iterdir() if not entry.name.startswith((".", "__MACOSX"))]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def unavailable(options: Options, downloads: Path) -> str | None:
    """Without the folder."""
    path = Path(options.path).expanduser()
    return None if path.exists() else f"{path} does not exist; place the images there, a folder for each class"


SOURCE = Source(
    prepare, Options, unavailable=unavailable, originals=lambda options, downloads: Path(options.path).expanduser()
)
