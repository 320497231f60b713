"""A table of images: a .csv whose columns ``file`` and ``label`` name the file and the class of each image.

A column ``split`` (``train`` or ``test``) says which images the test set has. Otherwise a test set is drawn, with the
classes in proportion.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from lplgrad.datasets import Fit, ImageFiles, Prepared, Size, Source
from lplgrad.datasets._shared import (
    check_options,
    class_name,
    draw_test_set,
    refuse_draw,
    report_alike,
    size_of_files,
)
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest, printable
from lplgrad.machine.log import say
from lplgrad.machine.tables import read_table
from lplgrad.study.validation import Count, Number, Settings

COLUMNS = ["file", "label"]
SPLITS = ("train", "test")


class Options(Settings):
    """Where the table and the images are, and how they are scaled and split.

    Attributes:
        path: the table; ``~`` is the home folder.
        folder: the folder that the names in the table are relative to. None is the table's folder.
        image_size, fit, value_range: as in ``image_folder``.
        test_images: how many images are held out if the table has no column ``split``.
        test_fraction: the same as a fraction of all images; give at most one of the two.
        split_seed: the seed of that draw.
    """

    path: Annotated[str, Field(min_length=1)]
    folder: Annotated[str, Field(min_length=1)] | None = None
    image_size: Count | None = None
    fit: Fit = "crop"
    test_images: Count | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Annotated[int, Field(ge=0)] = 0
    value_range: Annotated[list[Number], Field(min_length=2, max_length=2)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        check_options(self.test_images, self.test_fraction, self.value_range)
        return self


class _Row(NamedTuple):
    """An image of the table. Rows are sorted by class, then by the path's parts."""

    label: str
    parts: tuple[str, ...]
    path: Path
    split: str  # empty if the table has no splits
    line: int


def prepare(options: Options, downloads: Path) -> Prepared:
    """Read the table and split the images."""
    table, folder = _places(options)
    rows = _once(table, _rows(table, folder))
    provenance = {"from": "a table of images", **options.model_dump(), "sha256": file_digest(table)}
    parts = {split: [row for row in rows if row.split in (split, "")] for split in SPLITS}
    for split, images in parts.items():
        if not images:
            raise UserError(f"{table}: no image of the split {split!r}; name some, or remove the column split")
    classes = list(dict.fromkeys(row.label for row in parts["train"]))
    if len(classes) < 2:
        what = "training images of one class" if rows[0].split else "one class"
        raise UserError(f"{table}: {what}, {classes[0]!r}; two classes or more are needed")
    report_alike(table, {row.label for row in rows})
    train, test = (_files(options, folder, images, classes, table) for images in parts.values())
    if not rows[0].split:
        return Prepared(*draw_test_set(train, classes, options), classes, provenance)
    refuse_draw(table, options, "in its column split")
    if gaps := [name for number, name in enumerate(classes) if number not in test.labels]:
        say(f"warning: {table}: no test images of {len(gaps)} class(es), as {gaps[0]!r}; accuracy ignores them")
    return Prepared(train, test, classes, provenance)


def _places(options: Options) -> tuple[Path, Path]:
    table = Path(options.path).expanduser()
    return table, table.parent if options.folder is None else Path(options.folder).expanduser()


def _rows(table: Path, folder: Path) -> list[_Row]:
    """Read the table and check each cell. Return its rows in the order of the table."""
    cells = read_table(table, COLUMNS)
    if not cells:
        raise UserError(f"{table}: names no image; write a line for each, with its file and its label")
    split = "split" in cells[0][1]
    if split:
        read_table(table, [*COLUMNS, "split"])  # refuses two columns of this name
    rows, missing = list[_Row](), list[_Row]()
    for line, row in cells:
        for column in (*COLUMNS, "split"):
            if row.get(column) == "":
                raise UserError(f"{table}: line {line}: no {column}; write one, or remove the line")
        label, part = class_name(row["label"]), row["split"].casefold() if split else ""
        if label is None:
            raise UserError(f"{table}: line {line}: the class {row['label']!a} cannot be printed; rename it")
        if split and part not in SPLITS:
            raise UserError(
                f"{table}: line {line}: unknown split {row['split']!r}; write train or test, or remove the line to "
                "leave the image out"
            )
        path = folder / row["file"]
        name = path.relative_to(folder) if path.is_relative_to(folder) else path
        rows.append(_Row(label, name.parts, path, part, line))
        if not path.is_file():
            missing.append(rows[-1])
    if missing:
        first = missing[0]
        raise UserError(
            f"{table}: {len(missing)} of {len(rows)} files do not exist, the first is {printable(first.path)} (line "
            f"{first.line}); correct the names, or set folder to the folder that they are relative to"
        )
    return rows


def _once(table: Path, rows: list[_Row]) -> list[_Row]:
    """Sort the rows, and keep one of those that name the same file, also through links.

    Raises:
        UserError: a file has two classes or two splits.
    """
    seen: dict[str, _Row] = {}
    kept, repeated = list[_Row](), list[_Row]()
    for row in sorted(rows):
        other = seen.setdefault(os.path.realpath(row.path), row)
        if other is row:
            kept.append(row)
            continue
        repeated.append(row)
        for what, one, two in (("labelled", other.label, row.label), ("in the split", other.split, row.split)):
            if one != two:
                (first, here), (second, there) = sorted([(other.line, one), (row.line, two)])
                raise UserError(
                    f"{table}: lines {first} and {second}: {printable(row.path)} is {what} {here!r} and {there!r}; "
                    "remove one of the lines"
                )
    if repeated:
        example = printable(repeated[0].path)
        say(f"{table}: passed over {len(repeated)} line(s) that repeat an image and its class, as of {example}")
    return kept


def _files(options: Options, folder: Path, rows: list[_Row], classes: list[str], table: Path) -> ImageFiles:
    position = {name: number for number, name in enumerate(classes)}
    for row in rows:
        if row.label not in position:
            raise UserError(f"{table}: line {row.line}: class {row.label!r} has no training image; add some")
    labels = np.array([position[row.label] for row in rows], dtype=np.int64)
    return ImageFiles([row.path for row in rows], labels, options.image_size, options.fit, options.value_range, folder)


def unavailable(options: Options, downloads: Path) -> str | None:
    """Return the missing path, with what to do."""
    table, _ = _places(options)
    return None if table.is_file() else f"{table} does not exist; place the table there"


def size(options: Options, downloads: Path) -> Size | None:
    """Return the size of the data set, whose files are listed and not decoded, if the table is there."""
    if not _places(options)[0].is_file():
        return None
    found = prepare(options, downloads)
    return size_of_files(found.train, found.test, found.classes)


SOURCE = Source(
    prepare, Options, unavailable=unavailable, originals=lambda options, downloads: _places(options)[0], size=size
)
