"""A folder of images. The top folders are classes, and images lie at any depth below them.

If the top folders are splits (train and test, or train and val, by their usual names), the classes are one level below.
Otherwise a test set is drawn, with the classes in proportion. An archive of such a folder (.zip, .tar, .tar.gz,
.tar.xz) is unpacked once below the folder for downloads.

If the top folders are ``labeled``, ``unlabeled`` and perhaps ``test``, a person can label there (docs/labeling.md). A
simulated study uses the labelled images only.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lplgrad.datasets import Fit, ImageFiles, Listing, Prepared, Size, Source, _labeled_folder
from lplgrad.datasets._archives import unpack
from lplgrad.datasets._folders import (
    ClassFiles,
    check_listed_once,
    counted,
    folders_in,
    listed,
    quoted,
    report_loose_images,
)
from lplgrad.datasets._shared import check_options, draw_test_set, refuse_draw, size_of_files
from lplgrad.datasets.prepared.kinds import is_hidden
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest
from lplgrad.machine.log import say
from lplgrad.study.validation import Count, Number, Settings

SPLIT_NAMES = {"train": "train|training", "validation": "val|valid|validation", "test": "test|testing|eval|evaluation"}


class Options(Settings):
    """Where the images are, and how they are scaled and split.

    Attributes:
        path: the folder or archive; ``~`` is the home folder.
        image_size: side in pixels of the square that each image becomes. None if all images have one size already.
        fit: ``crop`` scales the shorter side and crops the middle; ``stretch`` scales both sides.
        top_folders: ``classes`` if the top folders are classes although they look like splits. None decides by names.
        validation: ``test`` measures on the validation folder instead of the test folder, ``train`` adds it to the
            training pool, ``ignore`` leaves it out. None is ``ignore`` if there is a test folder, else ``test``.
        test_images: how many images are held out if there is no test folder.
        test_fraction: the same as a fraction of all images; give at most one of the two.
        split_seed: the seed of that draw.
        value_range: the two numbers that become black and white, for grey pixels that are not unsigned 8-bit numbers.
            None is [0, 65535] for unsigned 16-bit and [0, 1] for floating-point numbers; others require a range.
        skip_unreadable: leave out images that cannot be decoded, instead of stopping.
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
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        check_options(self.test_images, self.test_fraction, self.value_range)
        return self

    @model_serializer(mode="wrap")
    def _written_if_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a key that earlier versions do not know, so that data sets that they prepared stay the same."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "skip_unreadable" or value}


def prepare(options: Options, downloads: Path) -> Prepared:
    """List the images and split them."""
    folder = _unpacked(Path(options.path).expanduser(), downloads)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; place the images there, a folder for each class")
    as_classes = options.top_folders == "classes"
    if parts := {} if as_classes else _labeled_folder.parts(folder):
        # Nobody waits for labels here: the study simulates on the labelled images alone.
        _labeled_folder.report_others(folder, parts)
        known = {"train": parts["labeled"], "test": parts["test"]} if "test" in parts else {}
        folder = folder if known else parts["labeled"]
    else:
        known = {} if as_classes else _split_folders(folder)
    used = _used_folders(folder, known, options)
    provenance = {"from": "a folder of images", **options.model_dump()}
    if used:
        train, test, classes = _listed_splits(used, options)
        provenance["folders"] = {name: [str(place.relative_to(folder)) for place in used[name]] for name in used}
        provenance["files"] = counted(folder, [*train.paths, *test.paths])
        return Prepared(train, test, classes, provenance)
    images = listed(folder)
    classes = list(images)
    if len(classes) < 2:
        hint = "".join(f"; if {folder / name} is the data set, set path to it" for name in classes)
        raise UserError(f"{folder}: {len(classes)} class(es); a folder for each of two classes or more is needed{hint}")
    check_listed_once([images])
    everything = _files(options, [images], classes)
    train, test = draw_test_set(everything, classes, options)
    provenance["files"] = counted(folder, everything.paths)
    return Prepared(train, test, classes, provenance)


def listing(options: Options) -> Listing:
    """List the images for a person who labels.

    Raises:
        UserError: the folder has no labelled or no unlabelled part, or an option has no effect.
    """
    folder = Path(options.path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; place labeled/<class>/ and unlabeled/ there")
    parts = _labeled_folder.parts(folder)
    if not parts:
        raise UserError(
            f"{folder}: a person labels in a folder with labeled/<class>/ and unlabeled/, and one of the two is missing"
        )
    for key in ("top_folders", "validation"):
        if getattr(options, key) is not None:
            raise UserError(f"{folder}: {key} has no effect with labeled/ and unlabeled/; remove the setting")
    _labeled_folder.report_others(folder, parts)
    labeled = _labeled_folder.images_by_class(parts["labeled"])
    test = _labeled_folder.images_by_class(parts["test"]) if "test" in parts else None
    total = sum(map(len, labeled.values()))
    held_out = options.test_images / max(total, 1) if options.test_images else options.test_fraction or 0.2
    unlabeled = _labeled_folder.images_below(parts["unlabeled"])
    files, count = partial(_as_files, options), partial(counted, folder)
    return Listing(folder, parts["labeled"], labeled, unlabeled, test, held_out, options.split_seed, files, count)


def _listed_splits(used: dict[str, list[Path]], options: Options) -> tuple[ImageFiles, ImageFiles, list[str]]:
    """List the images of a training pool and a test set in folders of their own. Also return the classes."""
    parts = {split: [(place, listed(place)) for place in places] for split, places in used.items()}
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
    if gaps := [name for name in classes if name not in parts["test"][0][1]]:
        say(f"warning: {used['test'][0]}: no images of {len(gaps)} class(es), as {gaps[0]!r}; accuracy ignores them")
    check_listed_once([images for part in parts.values() for _, images in part])
    train, test = (_files(options, [images for _, images in parts[split]], classes) for split in ("train", "test"))
    return train, test, classes


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the top folders that are splits: train, and test or validation or both. Empty if they are classes."""
    folders = folders_in(folder)
    found: dict[str, dict[str, Path]] = {}
    for place in sorted(folders, key=Path.is_symlink):  # a link to a split is not a second split
        if split := _split_of(place.name):
            found.setdefault(split, {}).setdefault(os.path.realpath(place), place)
    places = {split: list(one.values()) for split, one in found.items()}
    if "train" in places and len(places) > 1:
        for split, several in places.items():
            if len(several) > 1:
                raise UserError(
                    f"{folder}: {quoted(several)} are both names of the {split} set; keep one of the folders, or set "
                    "top_folders to classes if they are classes"
                )
        if others := [place for place in folders if _split_of(place.name) is None]:
            say(f"{folder}: passed over {quoted(others)}, beside the folders of the splits")
        report_loose_images(folder)
        return {split: _entered(several[0]) for split, several in places.items()}
    for several in places.values():
        if any(len(_class_names(place)) > 1 for place in several):
            raise UserError(
                f"{folder}: {quoted(several)} looks like a split, but there must be train and test, or train and val; "
                "place the other one there, set path to the folder of the classes to have a test set drawn, or set "
                "top_folders to classes if this is a class"
            )
    names = {place: below for place in folders if len(below := _class_names(place)) > 1}
    if len(names) == len(folders) > 1 and all(below <= max(names.values(), key=len) for below in names.values()):
        raise UserError(
            f"{folder}: {quoted(folders)} all hold the same folders, or some of them, as splits do; name them train "
            "and test if they are splits, or set top_folders to classes if they are classes"
        )
    if names and len(folders) > 1:
        say(
            f"{folder}: the top folders are the classes, although there are folders in {quoted(list(names))} too; if "
            "those are the classes, set path to the folder that holds them"
        )
    return {}


def _split_of(name: str) -> str | None:
    """Return ``train``, ``validation`` or ``test`` if a folder's name is that of a split, else None."""
    plain = re.sub(r"v\d+|[\W\d_]", "", name.casefold())
    for split, words in SPLIT_NAMES.items():
        if re.fullmatch(rf"(seg|images?|data)?({words})(set|images?|data)?", plain):
            return split
    return None


def _entered(place: Path) -> Path:
    """Return a split's folder, or the only folder in it if that has a name of the same split."""
    below = folders_in(place)
    if len(below) != 1 or _split_of(below[0].name) != _split_of(place.name):
        return place
    report_loose_images(place)
    return below[0]


def _class_names(folder: Path) -> set[str]:
    """Return the names of the folders in a folder, as class names. A single folder is entered first."""
    below = folders_in(folder)
    below = folders_in(below[0]) if len(below) == 1 else below
    return {unicodedata.normalize("NFC", place.name) for place in below}


def _used_folders(folder: Path, splits: dict[str, Path], options: Options) -> dict[str, list[Path]]:
    """Return the folders of ``train`` and ``test``, or nothing without splits. Log how a validation folder is used."""
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
    refuse_draw(folder, options, used["test"][0])
    for place in (*used["train"], *used["test"]):
        if not folders_in(place):
            instead = (
                f" set validation to test to measure on {validation} instead," if place == test and validation else ""
            )
            raise UserError(
                f"{place}: this split has no folders of classes; place the images in such folders,{instead} or set "
                "top_folders to classes if this is a class"
            )
    return used


def _files(options: Options, found: list[ClassFiles], classes: list[str]) -> ImageFiles:
    position = {name: number for number, name in enumerate(classes)}
    paths = [path for images in found for files in images.values() for path in files]
    labels = [position[name] for images in found for name, files in images.items() for _ in files]
    return _as_files(options, paths, np.array(labels, dtype=np.int64))


def _as_files(options: Options, paths: list[Path], labels: npt.NDArray[np.int64]) -> ImageFiles:
    size = options.image_size, options.fit, options.value_range
    return ImageFiles(paths, labels, *size, skip_unreadable=options.skip_unreadable)


def _unpacked(path: Path, downloads: Path) -> Path:
    """Return the folder, or for an archive the folder that it is unpacked to. A single top folder in it is entered."""
    if not path.is_file():
        return path
    target = downloads / f"{path.name}.{file_digest(path)[:12]}"
    if not target.exists():
        # This process holds the lock of the folder, so an existing folder belongs to a process that ended.
        beside = downloads / f".{path.name}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            unpack(path, beside)
            os.sync()  # later runs rely on the unpacked files being complete
            beside.replace(target)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    entries = [entry for entry in target.iterdir() if not is_hidden(entry.name)]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def unavailable(options: Options, downloads: Path) -> str | None:
    """Return the missing path, with what to do."""
    path = Path(options.path).expanduser()
    return None if path.exists() else f"{path} does not exist; place the images there, a folder for each class"


def size(options: Options, downloads: Path) -> Size | None:
    """Return the size of a folder, whose files are listed and not decoded; of others that which the options tell."""
    if Path(options.path).expanduser().is_dir():
        found = prepare(options, downloads)
        return size_of_files(found.train, found.test, found.classes)
    if options.image_size is None or options.test_images is None:
        return None
    # The number of classes is a guess. It changes the last layer and the space for logits.
    return Size((options.image_size, options.image_size, 3), 10, None, options.test_images)


SOURCE = Source(
    prepare,
    Options,
    unavailable=unavailable,
    originals=lambda options, downloads: Path(options.path).expanduser(),
    size=size,
    listing=listing,
)
