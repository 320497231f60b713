"""A folder of images: classes are its top folders, images lie at any depth below them.

Where the top folders are splits (train and test, train and val, by their usual names), the classes are below each.
Otherwise a test set is drawn, the classes in proportion. The path may also be an archive of such a folder (.zip, .tar,
.tar.gz, .tar.xz), which is unpacked once below the folder for downloads.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lplgrad.datasets import Fit, ImageFiles, Prepared, Source
from lplgrad.datasets._archives import unpack
from lplgrad.datasets._originals import HIDDEN, is_image
from lplgrad.datasets._split import stratified_split
from lplgrad.errors import UserError
from lplgrad.files import printable
from lplgrad.progress import say
from lplgrad.validation import Count, Number, Settings, problem_below

SPLIT_NAMES = {"train": "train|training", "validation": "val|valid|validation", "test": "test|testing|eval|evaluation"}


class Options(Settings):
    """Where the folder is and how its images are brought to one size and split.

    Attributes:
        path: of the folder or archive; ``~`` is the home folder.
        image_size: side in pixels of the square that the images become; None where all are of one size already.
        fit: ``crop`` scales the shorter side to it and crops the middle, ``stretch`` scales both sides.
        top_folders: ``classes`` where the top folders are classes, although they look like splits; None tells by their
            names.
        validation: what a validation folder is for. ``test`` makes it the test set (instead of a test folder),
            ``train`` adds it to the training pool, ``ignore`` leaves it out. None is ``ignore`` where there is a test
            folder and ``test`` where there is none.
        test_images: how many images are held out, where there is no test folder.
        test_fraction: the same as a fraction of all; give one of the two at most.
        split_seed: of the draw.
        value_range: the two numbers that become black and white, for grey images whose pixels are not unsigned 8-bit
            numbers; what lies beyond is cut off. None takes the range of the kind of numbers: [0, 65535] for unsigned
            16-bit and [0, 1] for floating-point numbers. Signed and 32-bit numbers need it.
    """

    path: Annotated[str, Field(min_length=1)]
    image_size: Count | None = None
    fit: Fit = "crop"
    top_folders: Literal["classes"] | None = None
    validation: Literal["test", "train", "ignore"] | None = None
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

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out settings of a later version that are not given: what was prepared before keeps its description."""
        later = ("top_folders", "validation", "value_range")
        return {key: value for key, value in write(self).items() if value is not None or key not in later}


def prepare(options: Options, downloads: Path) -> Prepared:
    """List the images and split them.

    Raises:
        UserError: the folder, the classes or the options are not what they should be.
        OSError: a folder cannot be read.
    """
    folder = _unpacked(Path(options.path).expanduser(), downloads)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; place the images there, a folder for each class")
    known = {} if options.top_folders == "classes" else _split_folders(folder)
    used = _used_folders(folder, known, options)
    if used:
        parts = {split: [(place, _listed(place)) for place in places] for split, places in used.items()}
        classes = list(parts["train"][0][1])
        for place, images in (parts["train"][0], *parts["test"]):
            if len(images) < 2:
                raise UserError(
                    f"{place}: 1 class, {next(iter(images))!r}; a folder for each of two classes or more is needed, "
                    "directly in the folder of the split"
                )
        for place, images in (*parts["train"], *parts["test"]):
            if unknown := sorted(images.keys() - set(classes)):
                raise UserError(f"{place}: class {unknown[0]!r} is not among those of {used['train'][0]}")
        if lacking := [name for name in classes if name not in parts["test"][0][1]]:
            say(
                f"warning: {used['test'][0]}: no images of {len(lacking)} class(es), as {lacking[0]!r}; the test "
                "accuracy says nothing about them"
            )
        _check_listed_once([images for listed in parts.values() for _, images in listed])
        train, test = (_files(options, [images for _, images in parts[split]], classes) for split in ("train", "test"))
        told = {
            "folders": {split: [str(place.relative_to(folder)) for place in places] for split, places in used.items()}
        }
    else:
        images = _listed(folder)
        classes = list(images)
        if len(classes) < 2:
            hint = "".join(f"; if {folder / name} is the data set, set path to it" for name in classes)
            raise UserError(
                f"{folder}: {len(classes)} class(es); a folder for each of two classes or more is needed{hint}"
            )
        _check_listed_once([images])
        everything = _files(options, [images], classes)
        held_out = options.test_images or round((options.test_fraction or 0.2) * len(everything.paths))
        train, test = (
            replace(everything, paths=[everything.paths[index] for index in part], labels=everything.labels[part])
            for part in stratified_split(everything.labels, classes, held_out, options.split_seed)
        )
        told = {}
    return Prepared(train, test, classes, {"from": "a folder of images", **options.model_dump(), **told})


def _split_folders(folder: Path) -> dict[str, Path]:
    """The top folders that are splits, by what they are for: train and at least one of test and validation.

    Returns:
        Nothing where the top folders are classes.

    Raises:
        UserError: they look like splits, but which is which cannot be told.
    """
    folders = _folders(folder)
    found: dict[str, dict[str, Path]] = {}
    for place in sorted(folders, key=Path.is_symlink):  # a link to a split is no second one
        if split := _split_of(place.name):
            found.setdefault(split, {}).setdefault(os.path.realpath(place), place)
    places = {split: list(one.values()) for split, one in found.items()}
    if "train" in places and len(places) > 1:
        for split, several in places.items():
            if len(several) > 1:
                raise UserError(
                    f"{folder}: {_quoted(several)} are both names of the {split} set; keep one of the folders, or set "
                    "top_folders to classes if they are classes"
                )
        others = [place for place in folders if _split_of(place.name) is None]
        if others:
            say(f"{folder}: passed over {_quoted(others)}, beside the folders of the splits")
        _tell_loose_images(folder)
        return {split: _entered(several[0]) for split, several in places.items()}
    for several in places.values():
        if any(len(_class_names(place)) > 1 for place in several):
            raise UserError(
                f"{folder}: {_quoted(several)} looks like a split, but there must be train and test, or train and val; "
                "place the other one there, or set path to the folder that holds the classes to have a test set drawn, "
                "or set top_folders to classes if this is a class"
            )
    names = {place: below for place in folders if len(below := _class_names(place)) > 1}
    if len(names) == len(folders) > 1 and all(below <= max(names.values(), key=len) for below in names.values()):
        raise UserError(
            f"{folder}: {_quoted(folders)} all hold the same folders, or some of them, as if they were splits with a "
            "folder for each class; name them train and test if they are splits, or set top_folders to classes if they "
            "are classes"
        )
    if names and len(folders) > 1:
        say(
            f"{folder}: the top folders are the classes, although there are folders in {_quoted(list(names))} too; if "
            "those are the classes, set path to the folder that holds them"
        )
    return {}


def _split_of(name: str) -> str | None:
    """What a folder of this name is for: ``train``, ``validation`` or ``test``; None if the name is of no split."""
    plain = re.sub(r"v\d+|[\W\d_]", "", name.casefold())
    for split, words in SPLIT_NAMES.items():
        if re.fullmatch(rf"(seg|images?|data)?({words})(set|images?|data)?", plain):
            return split
    return None


def _entered(place: Path) -> Path:
    """A split's folder, or the one of the same name that is the only folder in it."""
    below = _folders(place)
    if len(below) != 1 or _split_of(below[0].name) != _split_of(place.name):
        return place
    _tell_loose_images(place)
    return below[0]


def _class_names(folder: Path) -> set[str]:
    """The names of the folders in a folder, as class names; if there is only one, of the folders in that one."""
    below = _folders(folder)
    below = _folders(below[0]) if len(below) == 1 else below
    return {unicodedata.normalize("NFC", place.name) for place in below}


def _tell_loose_images(folder: Path) -> None:
    """Say in the log which images lie beside the folders that are used."""
    loose = [entry.name for entry in _entries(folder) if is_image(entry.name) and entry.is_file()]
    if loose:
        say(f"{folder}: passed over {len(loose)} image(s) outside of the class folders, as {printable(loose[0])}")


def _quoted(folders: list[Path]) -> str:
    """The names of some folders, for a message."""
    names = ", ".join(f"'{printable(place.name)}'" for place in folders[:5])
    return names if len(folders) <= 5 else f"{names} and {len(folders) - 5} more"


def _used_folders(folder: Path, splits: dict[str, Path], options: Options) -> dict[str, list[Path]]:
    """The folders that the training pool and the test set are made of; what is done with a validation set is told.

    Returns:
        Nothing where there are no splits.

    Raises:
        UserError: an option has no effect or leaves no test set, or a split holds no classes.
    """
    test, validation, wanted = splits.get("test"), splits.get("validation"), options.validation
    if validation is None and wanted is not None:
        raise UserError(f"{folder}: validation has no effect, as there is no validation folder; remove the setting")
    if not splits:
        return {}
    used = {"train": [splits["train"]], "test": [place for place in (test, validation) if place is not None][:1]}
    if validation is not None:
        if test is None and wanted in ("train", "ignore"):
            raise UserError(f"{folder}: validation: {wanted} leaves no test set, as there is no test folder; remove it")
        if test is None:
            say(f"{folder}: the test set is {validation}, as there is no test folder")
        elif wanted == "test":
            say(f"{folder}: the test set is {validation}, and {test} is not used")
            used["test"] = [validation]
        elif wanted == "train":
            say(f"{folder}: {validation} is added to the training pool")
            used["train"].append(validation)
        else:
            say(
                f"{folder}: {validation} is not used; set validation to train to add it to the training pool, or to "
                f"test to measure on it instead of {test}"
            )
    for key in ("test_images", "test_fraction", "split_seed"):
        if key in options.model_fields_set and getattr(options, key) is not None:
            raise UserError(f"{folder}: {key} has no effect, as the test set is {used['test'][0]}; remove the setting")
    for place in (*used["train"], *used["test"]):
        if not _folders(place):
            instead = (
                f" set validation to test to measure on {validation} instead," if place == test and validation else ""
            )
            raise UserError(
                f"{place}: this split has no folders of classes; place the images in such folders,{instead} or set "
                "top_folders to classes if this is a class"
            )
    return used


def _files(options: Options, listed: list[dict[str, dict[Path, str]]], classes: list[str]) -> ImageFiles:
    position = {name: number for number, name in enumerate(classes)}
    paths = [path for images in listed for files in images.values() for path in files]
    labels = [position[name] for images in listed for name, files in images.items() for _ in files]
    value_range = None if options.value_range is None else (options.value_range[0], options.value_range[1])
    return ImageFiles(paths, np.array(labels, dtype=np.int64), options.image_size, options.fit, value_range)


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
        UserError: a class has no image or a name that is not accepted.
        OSError: a folder cannot be read.
    """
    classes = _class_folders(folder)
    images: dict[str, dict[Path, str]] = {}
    _tell_loose_images(folder)
    others: list[Path] = []
    for name, place in classes.items():
        files = _files_below(place)
        images[name] = {path: real for path, real in files.items() if is_image(path.name)}
        others += [path for path in files if not is_image(path.name)]
        if not images[name]:
            raise UserError(f"{place}: a class without images; place some there or remove the folder")
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
            both, differ = f"{other!r} and {name!r}", "in case only"
            if other.lower() != name.lower():  # as a ligature and its letters, which print alike
                both, differ = f"{other!a} and {name!a}", "only in characters that Unicode takes for equal without case"
            say(f"warning: {folder}: the classes {both} differ {differ}, and are kept apart")
    return {name: found[name] for name in names}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link to a folder. A link that leads nowhere is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, in the order of their names."""
    return [Path(entry) for entry in _entries(folder) if not entry.name.startswith(HIDDEN) and _is_folder(entry)]


def _files_below(folder: Path) -> dict[Path, str]:
    """All files below a folder, links followed, hidden ones left out, in the order of their names.

    What can be reached in several ways is listed once, by a way without links if there is one.

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
        for entry in _entries(place):
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
    entries = [entry for entry in target.iterdir() if not entry.name.startswith(HIDDEN)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def unavailable(options: Options, downloads: Path) -> str | None:
    """Without the folder."""
    path = Path(options.path).expanduser()
    return None if path.exists() else f"{path} does not exist; place the images there, a folder for each class"


SOURCE = Source(
    prepare, Options, unavailable=unavailable, originals=lambda options, downloads: Path(options.path).expanduser()
)
