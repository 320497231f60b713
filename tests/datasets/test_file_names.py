"""The names of the files of a prepared data set: each is the file that was decoded into the array, or there is none."""

from __future__ import annotations

import csv
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset
from lplgrad.datasets.prepared.file_names import positions, read_names
from lplgrad.datasets.prepared.images import decode
from lplgrad.machine.digest import code_digest
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import escaped
from lplgrad.rounds.oracle import pool_labels
from lplgrad.study.validation import words
from tests.image_files import photos, save

Call = Callable[..., tuple[int, str]]
DATA = Path("data/mine")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def prepare(lplgrad: Call, **settings: Any) -> None:
    status, told = lplgrad("prepare", "--settings", *words(settings), "--output", DATA)
    assert status == 0, told


def names(lplgrad: Call) -> tuple[int, str]:
    return lplgrad("files", "--data", DATA, "--threads", 2, "--output", DATA / "files.csv")


def rows() -> list[dict[str, str]]:
    with (DATA / "files.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def restored(path: str) -> str:
    """Undo the escape, as the documentation describes it."""
    pattern, text = rb"\\(\\|x([0-9a-f]{2}))", path.encode()
    return os.fsdecode(re.sub(pattern, lambda found: bytes.fromhex(found[2].decode()) if found[2] else b"\\", text))


def check(root: Path) -> DatasetArrays:
    """Every row names the file whose pixels are in the array, and its class."""
    data = open_dataset(DATA)
    found = iter(rows())
    labels = {"train": pool_labels(data), "test": data.splits["test"].labels}
    for split, part in data.splits.items():
        for index, (image, label) in enumerate(zip(part.inputs, labels[split], strict=True)):
            row = next(found)
            assert (row["index"], row["split"], row["class"]) == (str(index), split, data.classes[label])
            assert np.array_equal(decode(root / restored(row["path"]), 8, "crop"), image)
    assert next(found, None) is None
    return data


def arrange(kind: str) -> tuple[Path, Path, dict[str, Any]]:
    """Images in a folder, in splits or in an archive: the path, the folder that names are relative to, and options."""
    folder = photos(Path("photos"))
    if kind == "drawn":
        return folder, folder, {"test_fraction": 0.3, "split_seed": 3}
    if kind == "splits":
        for number, split in enumerate(("train", "val", "test")):
            for place in ("cat/a", "dog"):
                save(Path("both", split, place, "0.png"), seed=100 + number + 10 * len(place))
                save(Path("both", split, place, "1.png"), seed=200 + number + 10 * len(place))
        return Path("both"), Path("both"), {"validation": "train"}
    if kind == "tar":
        with tarfile.open("photos.tar.gz", "w:gz") as archive:
            archive.add(folder, "top")  # entered by the preparation, but part of the names in the archive
        return Path("photos.tar.gz"), Path("unpacked"), {}
    with zipfile.ZipFile("photos.zip", "w") as packed:
        for path in sorted(folder.rglob("*.*g")):
            packed.write(path, path.relative_to(folder))
    return Path("photos.zip"), Path("unpacked"), {}


@pytest.mark.parametrize("kind", ["drawn", "splits", "tar", "zip"])
def test_every_row_names_the_file_that_was_decoded(kind: str, lplgrad: Call) -> None:
    path, root, options = arrange(kind)
    prepare(lplgrad, source="image_folder", path=str(path), image_size=8, **options)
    before = {file.name: file.stat().st_mtime_ns for file in DATA.iterdir()}
    assert names(lplgrad)[0] == 0
    after = {file.name: file.stat().st_mtime_ns for file in DATA.iterdir()}
    assert after.pop("files.csv")
    assert after == before, "nothing was prepared again"
    if path.is_file():
        shutil.unpack_archive(path, root)
    data = check(root)
    assert read_names(data)["test"] == [row["path"] for row in rows() if row["split"] == "test"]
    assert len({row["path"] for row in rows()}) == len(rows())


def test_photographs_of_caltech_have_names(lplgrad: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lplgrad.datasets.caltech101.IMAGES", 220)
    folder = Path("data/downloads/caltech101/101_ObjectCategories")
    for name, count in (("BACKGROUND_Google", 3), ("Faces", 120), ("ant", 100)):
        for number in range(1, count + 1):
            save(folder / name / f"image_{number:04d}.jpg", size=(8, 9), seed=len(name) * 1000 + number)
    prepare(lplgrad, source="caltech101", image_size=8, test_images=101, split_seed=1)
    assert names(lplgrad)[0] == 0
    check(folder)


NASTY = [
    "a,b",
    'the "best"',
    "two\nlines",
    "back\\slash",
    "\\x41",
    "caf\udce9",
    "\x85\u2028",
    "=1",
    "é ",
    "tab\t",
    "\r",
]


def test_names_may_be_anything(lplgrad: Call) -> None:
    for place, seed in (("cat, big", 0), ('"dog"', 50)):
        for number, name in enumerate(NASTY):
            save(Path("photos", place, f"{name}.png"), seed=seed + number)
    prepare(lplgrad, source="image_folder", path="photos", image_size=8)
    assert names(lplgrad)[0] == 0
    check(Path("photos"))
    found = {restored(row["path"]) for row in rows()}
    assert found == {f"{place}/{name}.png" for place in ("cat, big", '"dog"') for name in NASTY}
    assert {row["class"] for row in rows()} == {"cat, big", '"dog"'}
    assert len((DATA / "files.csv").read_text().splitlines()) == 1 + len(rows()), "a row is a line"


def test_the_escape_by_hand() -> None:
    assert escaped("a,b\\n\n\udce9\x85é") == r"a,b\\n\x0a\xe9\xc2\x85é"


def test_a_source_without_files_has_positions(lplgrad: Call) -> None:
    prepare(lplgrad, source="digits")
    assert names(lplgrad) == (0, "")
    data = open_dataset(DATA)
    assert [row["path"] for row in rows()] == [*positions("train", 1200), *positions("test", 597)]
    assert positions("train", 43)[-1] == "train/00042"
    assert [row["class"] for row in rows()][:1200] == [data.classes[label] for label in pool_labels(data)]


@pytest.fixture
def folder(lplgrad: Call) -> Path:
    """A folder of images that is prepared, with names."""
    found = photos(Path("photos"))
    prepare(lplgrad, source="image_folder", path=str(found), image_size=8, test_fraction=0.3)
    assert names(lplgrad)[0] == 0
    return found


def exchange(one: Path, other: Path) -> None:
    """Exchange two files and keep their times."""
    one.rename("spare")
    other.rename(one)
    Path("spare").rename(other)


EDITS: list[Callable[[Path], object]] = [
    lambda folder: Image.new("RGB", (9, 9)).save(folder / "cat" / "new.png"),
    lambda folder: (folder / "dog" / "0.jpg").unlink(),
    lambda folder: (folder / "dog" / "0.jpg").rename(folder / "dog" / "00.jpg"),
    lambda folder: exchange(folder / "dog" / "0.jpg", folder / "dog" / "1.jpg"),
    lambda folder: os.utime(folder / "dog" / "0.jpg", ns=(1, 1)),
    lambda folder: shutil.rmtree(folder / "dog"),
]


@pytest.mark.parametrize("edit", EDITS)
def test_a_changed_folder_is_refused(folder: Path, lplgrad: Call, edit: Callable[[Path], object]) -> None:
    before = (DATA / "files.csv").read_bytes()
    edit(folder)
    status, told = names(lplgrad)
    assert status == 1
    assert re.search(r"photos has changed since data/mine was prepared \(.*\), so its files cannot be named", told)
    assert (DATA / "files.csv").read_bytes() == before


def test_without_a_listing_the_pixels_decide(folder: Path, lplgrad: Call) -> None:
    """Who goes on with the images that were prepared deletes the listing."""
    before = rows()
    (DATA / "originals.json").unlink()
    os.utime(folder / "dog" / "0.jpg", ns=(1, 1))
    assert names(lplgrad)[0] == 0
    assert rows() == before
    exchange(folder / "dog" / "0.jpg", folder / "dog" / "1.jpg")
    status, told = names(lplgrad)
    assert (status, "0.jpg does not decode to the image that was prepared" in told) == (0, True)
    assert [row["path"] for row in rows()] == [*positions("train", 8), *positions("test", 4)]
    shutil.rmtree(folder / "dog")
    assert names(lplgrad)[0] == 0
    assert rows()[0]["path"] == "train/00000"


def test_files_that_were_deleted_have_positions(folder: Path, lplgrad: Call) -> None:
    before = rows()
    shutil.rmtree(folder)
    status, told = names(lplgrad)
    assert (status, "warning: data/mine: its files cannot be named (photos is gone)" in told) == (0, True)
    assert [row | {"path": ""} for row in before] == [row | {"path": ""} for row in rows()]
    assert rows()[0]["path"] == "train/00000"


def test_an_unpacked_archive_that_was_edited_gives_no_names(lplgrad: Call) -> None:
    path, _, _ = arrange("tar")
    prepare(lplgrad, source="image_folder", path=str(path), image_size=8)
    (unpacked,) = Path("data/downloads").glob("photos.tar.gz.*/top/dog")
    exchange(unpacked / "0.jpg", unpacked / "1.jpg")
    status, told = names(lplgrad)
    assert (status, "does not decode to the image that was prepared" in told) == (0, True)
    assert rows()[0]["path"] == "train/00000"


def test_another_split_of_today_gives_no_names(folder: Path, lplgrad: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels of two splits are the same, in the same order."""
    split = "lplgrad.datasets._shared.stratified_split"
    everything = np.arange(12)
    drawn = [everything[(everything % 6) > 1], everything[(everything % 6) <= 1]]
    monkeypatch.setattr(split, lambda *arguments: drawn)
    status, told = names(lplgrad)
    assert (status, "does not decode to the image that was prepared" in told) == (0, True)


def test_preparing_again_removes_the_names(folder: Path, lplgrad: Call) -> None:
    prepare(lplgrad, source="image_folder", path=str(folder), image_size=8, test_fraction=0.3, split_seed=1)
    assert not (DATA / "files.csv").exists()
    with pytest.raises(UserError, match=r"files\.csv: missing; write it again with lplgrad files"):
        read_names(open_dataset(DATA))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("index,split", "number,split", "does not list the images of the data set beside it"),
        ("0,train", "1,train", "does not list the images"),
        (",cat\n", ",dog\n", "does not list the images"),
        (",cat\n", "\n", "does not list the images"),
        ("0,train,", '0,train,"', "not a whole table of files"),
    ],
)
def test_names_of_other_images_are_refused(folder: Path, old: str, new: str, problem: str) -> None:
    path = DATA / "files.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=rf"files\.csv: {problem}.*--forcerun files"):
        read_names(open_dataset(DATA))


def test_an_edit_of_the_names_prepares_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule ``prepare`` has this digest."""
    roots = ("datasets.prepared.prepare.run", "datasets.image_folder.SOURCE")
    left_out = {"datasets.prepared.file_names"}
    assert code_digest(*roots) == code_digest(*roots, without=left_out)
    assert code_digest("datasets.prepared.prepare.run_command") != code_digest(
        "datasets.prepared.prepare.run_command", without=left_out
    )
