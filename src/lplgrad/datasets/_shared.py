"""What sources of image files share: checks of their options and of names of classes, and the draw of a test set."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from lplgrad.datasets import ImageFiles, Size
from lplgrad.datasets._split import stratified_split
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say
from lplgrad.study.validation import Settings, wrong

DRAW = ("test_images", "test_fraction", "split_seed")  # options that say how a test set is drawn


class DrawOptions(Protocol):
    """Options of a source that may have to draw a test set."""

    @property
    def test_images(self) -> int | None:
        """How many images are held out."""

    @property
    def test_fraction(self) -> float | None:
        """The same as a fraction of all images."""

    @property
    def split_seed(self) -> int:
        """The seed of the draw."""


def check_options(test_images: int | None, test_fraction: float | None, value_range: Sequence[float] | None) -> None:
    """Raise an error for a validator if two sizes of a test set are given, or a range does not rise."""
    if test_images is not None and test_fraction is not None:
        raise wrong("test_images is given too; give one of them", "test_fraction")
    if value_range is not None and not 1e-30 < value_range[1] - value_range[0] < 1e30:
        raise wrong(f"must be [low, high] with low below high, not {value_range}", "value_range")


def refuse_draw(where: Path, options: Settings, test: object) -> None:
    """Raise UserError if an option says how a test set is drawn, although ``test`` is the test set."""
    for key in DRAW:
        if getattr(options, key) != type(options).model_fields[key].default:  # the workflow writes out every default
            raise UserError(f"{where}: {key} has no effect, as the test set is {test}; remove the setting")


def draw_test_set(files: ImageFiles, classes: list[str], options: DrawOptions) -> tuple[ImageFiles, ImageFiles]:
    """Draw a test set, in proportion to the classes. Return the training pool and the test set."""
    held_out = options.test_images or round((options.test_fraction or 0.2) * len(files.paths))
    train, test = (
        replace(files, paths=[files.paths[index] for index in part], labels=files.labels[part])
        for part in stratified_split(files.labels, classes, held_out, options.split_seed)
    )
    return train, test


def class_name(name: str) -> str | None:
    """Return the name of a class in NFC, because some systems store an accent as a separate character.

    None if it cannot be printed.
    """
    name = unicodedata.normalize("NFC", name)
    kinds = {unicodedata.category(character) for character in name}
    return None if kinds & {"Cc", "Zl", "Zp"} or kinds <= {"Zs", "Cf"} else name


def report_alike(where: Path, names: Iterable[str]) -> None:
    """Write to the log which classes differ in case only."""
    alike: dict[str, str] = {}
    for name in sorted(names):
        other = alike.setdefault(name.casefold(), name)
        if other != name:
            both, differ = f"{other!r} and {name!r}", "in case only"
            if other.lower() != name.lower():  # such as a ligature and its letters, which look the same when printed
                both, differ = f"{other!a} and {name!a}", "only in characters that Unicode takes for equal without case"
            say(f"warning: {where}: the classes {both} differ {differ}, and are kept apart")


def size_of_files(train: object, test: object, classes: list[str]) -> Size:
    """Return the size of a data set whose files are listed and not decoded."""
    from lplgrad.datasets.prepared.images import first_shape  # imports Pillow, and the Snakefile imports this module

    assert isinstance(train, ImageFiles)
    assert isinstance(test, ImageFiles)
    return Size(first_shape([train, test]), len(classes), len(train.paths), len(test.paths))
