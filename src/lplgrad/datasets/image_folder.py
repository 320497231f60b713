"""A folder of images: classes are its top folders, images lie at any depth below them.

Where the folder has the two folders ``train`` and ``test``, those are the splits and the classes are below each;
otherwise a test set is drawn, the classes in proportion. The path may also be an archive of such a folder (.zip, .tar,
.tar.gz, .tar.xz), which is unpacked once below the folder for downloads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from lplgrad.datasets import Fit, ImageFiles, Prepared, Source
from lplgrad.datasets._archives import unpack
from lplgrad.datasets._split import stratified_split
from lplgrad.errors import UserError
from lplgrad.files import printable
from lplgrad.progress import say
from lplgrad.validation import Count, Number, Settings, problem_below

HIDDEN = (".", "__MACOSX")
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
    """List the images and split them.

    Raises:
        UserError: the folder, the classes or the options are not what they should be.
        OSError: a folder cannot be read.
    """
    folder = _unpacked(Path(options.path).expanduser(), downloads)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; place the images there, a folder for each class")
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        listed = [_listed(folder / "train"), _listed(folder / "test")]
        classes = list(listed[0])
        unknown = sorted(listed[1].keys() - set(classes))
        if unknown:
            raise UserError(f"{folder / 'test'}: class {unknown[0]!r} is not among those of {folder / 'train'}")
        _check_listed_once(listed)
        splits = [_files(options, images, classes) for images in listed]
    else:
        images = _listed(folder)
        classes = list(images)
        _check_listed_once([images])
        everything = _files(options, images, classes)
        held_out = options.test_images or round((options.test_fraction or 0.2) * len(everything.paths))
        splits = [
            replace(everything, paths=[everything.paths[index] for index in part], labels=everything.labels[part])
            for part in stratified_split(everything.labels, classes, held_out, options.split_seed)
        ]
    return Prepared(splits[0], splits[1], classes, {"from": "a folder of images", **options.model_dump()})


def _files(options: Options, images: dict[str, dict[Path, str]], classes: list[str]) -> ImageFiles:
    paths = [path for files in images.values() for path in files]
    labels = np.repeat([classes.index(name) for name in images], [len(files) for files in images.values()])
    value_range = None if options.value_range is None else (options.value_range[0], options.value_range[1])
    return ImageFiles(paths, labels.astype(np.int64), options.image_size, options.fit, value_range)


def _check_listed_once(listed: list[dict[str, dict[Path, str]]]) -> None:
    """No file may be listed twice through links: it would have two labels, or be learned from and tested on."""
    seen: dict[str, Path] = {}
    for images in listed:
        for files in images.values():
            for path, real in files.items():
                other = seen.setdefault(real, path)
                if other != path:
                    raise UserError(
                        f"{printable(path)}: is the same file as {printable(other)} through a link, and an image may "
                        "be in one class and one split only; remove one of the two"
                    )


def _listed(folder: Path) -> dict[str, dict[Path, str]]:
    """The classes below a folder, in the order of their names, with the images of each as ``_files_below`` tells them.

    Raises:
        UserError: a class has no image or a name that is not accepted, or there are fewer than two classes.
        OSError: a folder cannot be read.
    """
    classes = _class_folders(folder)
    images: dict[str, dict[Path, str]] = {}
    loose = [entry.name for entry in sorted(os.scandir(folder), key=_name) if _is_image(entry.name) and entry.is_file()]
    if loose:
        say(f"{folder}: passed over {len(loose)} image(s) outside of the class folders, as {printable(loose[0])}")
    others: list[Path] = []
    for name, place in classes.items():
        files = _files_below(place)
        images[name] = {path: real for path, real in files.items() if _is_image(path.name)}
        others += [path for path in files if not _is_image(path.name)]
        if not images[name]:
            raise UserError(f"{place}: a class without images; place some there or remove the folder")
    if len(classes) < 2:
        hint = "".join(f"; if {place} is the data set, set path to it" for place in classes.values())
        raise UserError(f"{folder}: {len(classes)} class(es); a folder for each of two classes or more is needed{hint}")
    if others:
        say(
            f"{folder}: passed over {len(others)} file(s) that are no images by their names, as "
            f"{printable(others[0].name)}"
        )
    return images


def _class_folders(folder: Path) -> dict[str, Path]:
    """The top folders by the names of their classes, in the order of the names.

    Raises:
        UserError: a name is not text that can be printed, or two folders have the same name in Unicode.
    """
    found: dict[str, Path] = {}
    for place in _folders(folder):
        try:
            place.name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{printable(place)}: the name of this class is not UTF-8; rename the folder") from None
        # Some systems write an accent as a character of its own.
        name = unicodedata.normalize("NFC", place.name)
        kinds = {unicodedata.category(character) for character in name}
        if kinds & {"Cc", "Zl", "Zp"} or kinds <= {"Zs", "Cf"}:
            raise UserError(f"{folder}: the name {name!a} of a class cannot be printed; rename the folder")
        if name in found:
            both = f"{found[name].name!a} and {place.name!a}"
            raise UserError(f"{folder}: the folders {both} have the same name in Unicode; merge them or rename one")
        found[name] = place
    names = sorted(found)
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(name.casefold(), name)
        if other != name:
            say(f"warning: {folder}: the classes {other!r} and {name!r} differ in case only, and are kept apart")
    return {name: found[name] for name in names}


def _is_image(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in ENDINGS


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link to a folder. A link that leads nowhere is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, in the order of their names."""
    entries = sorted(os.scandir(folder), key=_name)
    return [Path(entry) for entry in entries if not entry.name.startswith(HIDDEN) and _is_folder(entry)]


def _files_below(folder: Path) -> dict[Path, str]:
    """All files below a folder, links followed, hidden ones left out, in the order of their names.

    What can be reached on several ways is listed once, by a way without links if there is one.

    Returns:
        The files, with the real path of each.

    Raises:
        OSError: a folder cannot be read.
    """
    found: dict[str, Path] = {}
    seen: set[str] = set()
    folders, linked_folders, linked_files = [folder], list[Path](), list[Path]()
    while folders or linked_folders:
        place = folders.pop(0) if folders else linked_folders.pop(0)
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        for entry in sorted(os.scandir(place), key=_name):
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                (linked_folders if entry.is_symlink() else folders).append(Path(entry))
            elif entry.is_symlink():
                linked_files.append(Path(entry))
            else:
                found[str(Path(real, entry.name))] = Path(entry)
    repeated = [path for path in sorted(linked_files) if found.setdefault(os.path.realpath(path), path) != path]
    if repeated:
        say(f"{folder}: passed over {len(repeated)} link(s) to images of the same class, as {printable(repeated[0])}")
    return {path: real for real, path in sorted(found.items(), key=lambda item: item[1].relative_to(folder).parts)}


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
