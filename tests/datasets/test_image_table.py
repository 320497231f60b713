"""A table of images as a data set: which files it names, in which order, and what can be wrong with it."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad.datasets import ImageFiles, Prepared
from lplgrad.datasets.image_table import SOURCE, Options
from lplgrad.datasets.prepared.images import decode
from lplgrad.machine.errors import UserError
from lplgrad.study.availability import changed_originals
from lplgrad.study.reading import read_study
from lplgrad.study.validation import words
from tests.image_files import prepare, save

Call = Callable[..., tuple[int, str]]
HOME = Path(__file__).parents[2]
ROWS = [(f"{kind}{number}.png", kind) for kind in ("dog", "cat") for number in range(6)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of twelve images and a table of them."""
    folder = tmp_path / "photos"
    for number, (name, _) in enumerate(ROWS):
        save(folder / name, seed=number)
    write(folder, ROWS)
    return folder


def write(folder: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("file", "label")) -> Path:
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return folder / "labels.csv"


def prepared(folder: Path, **options: Any) -> Prepared:
    return prepare("image_table", folder.parent, path=str(folder / "labels.csv"), **options)


def listed(found: Prepared, folder: Path) -> dict[str, list[tuple[str, str]]]:
    """The name and class of each image, by split."""
    parts = {}
    for split in ("train", "test"):
        files = getattr(found, split)
        assert isinstance(files, ImageFiles)
        labels = [found.classes[label] for label in files.labels]
        parts[split] = [(str(path.relative_to(folder)), label) for path, label in zip(files.paths, labels, strict=True)]
    return parts


class TestTable:
    def test_images_are_sorted_by_class_and_name_whatever_the_order_of_the_lines(self, place: Path) -> None:
        first = listed(prepared(place, test_images=4), place)
        assert first["train"] + first["test"] != sorted(ROWS)
        assert first["train"] == sorted(first["train"], key=lambda row: (row[1], row[0]))
        assert sorted(first["train"] + first["test"]) == sorted(ROWS)
        assert [label for _, label in first["test"]] == ["cat", "cat", "dog", "dog"]
        rows = list(ROWS)
        random.Random(1).shuffle(rows)
        write(place, rows)
        assert listed(prepared(place, test_images=4), place) == first
        assert listed(prepared(place, test_images=4, split_seed=1), place) != first
        assert len(listed(prepared(place, test_fraction=0.5), place)["test"]) == 6

    def test_a_column_says_which_images_the_test_set_has(self, place: Path) -> None:
        rows = [(name, kind, "Test" if name[3] in "05" else "train") for name, kind in ROWS]
        write(place, rows, ("file", "label", "split"))
        found = listed(prepared(place), place)
        assert found["test"] == [("cat0.png", "cat"), ("cat5.png", "cat"), ("dog0.png", "dog"), ("dog5.png", "dog")]
        assert len(found["train"]) == 8
        with pytest.raises(UserError, match="test_fraction has no effect, as the test set is in its column split"):
            prepared(place, test_fraction=0.5)

    def test_a_class_without_test_images_is_told(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [(name, kind, "test" if name == "cat0.png" else "train") for name, kind in ROWS]
        write(place, rows, ("file", "label", "split"))
        assert prepared(place).test.labels.tolist() == [0]
        assert "no test images of 1 class(es), as 'dog'" in capsys.readouterr().err

    def test_tables_of_spreadsheets_are_read(self, place: Path) -> None:
        first = listed(prepared(place), place)
        text = "\r\n".join(";".join(row) for row in [("label", "note", "file"), *((k, "x", n) for n, k in ROWS)])
        (place / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
        assert listed(prepared(place), place) == first

    def test_names_are_relative_to_a_folder_or_absolute(self, place: Path, tmp_path: Path) -> None:
        first = listed(prepared(place), place)
        table = tmp_path / "elsewhere" / "labels.csv"
        table.parent.mkdir()
        (place / "labels.csv").rename(table)
        found = prepare("image_table", tmp_path, path=str(table), folder=str(place))
        assert listed(found, place) == first
        table = write(table.parent, [(str(place / name), kind) for name, kind in ROWS])
        assert listed(prepare("image_table", tmp_path, path=str(table)), place) == first
        table = write(table.parent, [(f"../photos/{name}", kind) for name, kind in ROWS])
        found = prepare("image_table", tmp_path, path=str(table))
        assert [name for name, _ in listed(found, table.parent)["test"]] == [
            f"../photos/{name}" for name, _ in first["test"]
        ]

    def test_an_image_that_is_repeated_counts_once(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (place / "link.png").symlink_to("cat2.png")
        (place / "below").mkdir()
        write(place, [*ROWS, ("cat1.png", "cat"), ("below/../cat3.png", "cat"), ("link.png", "cat")])
        found = prepared(place, test_images=4)
        assert len(found.train.labels) + len(found.test.labels) == 12
        assert "labels.csv: passed over 3 line(s) that repeat an image and its class, as of " in capsys.readouterr().err

    def test_classes_are_text_in_the_order_of_their_names(self, place: Path) -> None:
        write(place, [(name, "10" if kind == "dog" else "9") for name, kind in ROWS])
        assert prepared(place).classes == ["10", "9"]
        write(place, [(name, "Ge\u0301" if kind == "dog" else "cat") for name, kind in ROWS])
        assert prepared(place).classes == ["G\u00e9", "cat"]

    def test_the_size_is_known_before_it_is_prepared(self, place: Path, tmp_path: Path) -> None:
        options = Options(path=str(place / "labels.csv"), image_size=8, test_images=4)
        assert SOURCE.size(options, tmp_path) == ((8, 8, 3), 2, 8, 4)
        assert SOURCE.size(Options(path="nowhere.csv"), tmp_path) is None
        assert SOURCE.unavailable(options, tmp_path) is None
        assert SOURCE.unavailable(Options(path="no.csv"), tmp_path) == "no.csv does not exist; place the table there"


class TestProblems:
    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ([("gone.png", "cat"), ("b.png", "dog")], r"labels\.csv: 2 of 14 files do not exist, the first is .*gone"),
            ([("cat1.png", "dog")], r"lines 9 and 14: .*cat1\.png is labelled 'cat' and 'dog'; remove one"),
            ([("cat1.png", "")], "line 14: no label; write one, or remove the line"),
            ([("", "cat")], "line 14: no file; write one"),
            ([("cat1.png", "a\u2028x")], "line 14: the class .* cannot be printed"),
            ([("below", "cat")], "1 of 13 files do not exist, the first is .*below"),
            ([("cat1.png", "cat", "x")], "line 14: 3 cells, but the first line has 2"),
        ],
    )
    def test_a_line_that_is_wrong_is_named(self, place: Path, rows: list[tuple[str, ...]], problem: str) -> None:
        (place / "below").mkdir()
        write(place, [*ROWS, *rows])
        with pytest.raises(UserError, match=problem):
            prepared(place)

    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ([("cat1.png", "cat", "val")], "line 14: unknown split 'val'; write train or test, or remove the line to"),
            ([("cat1.png", "cat", "")], "line 14: no split; write one"),
            ([("cat1.png", "cat", "test")], r"lines 9 and 14: .*cat1\.png is in the split 'train' and 'test'"),
            ([], "no image of the split 'test'"),
            ([("x.png", "horse", "test")], "line 14: class 'horse' has no training image"),
        ],
    )
    def test_a_split_that_is_wrong_is_named(self, place: Path, rows: list[tuple[str, ...]], problem: str) -> None:
        save(place / "x.png", seed=50)
        write(place, [*((*row, "train") for row in ROWS), *rows], ("file", "label", "split"))
        with pytest.raises(UserError, match=problem):
            prepared(place)

    def test_tables_without_two_classes_are_refused(self, place: Path) -> None:
        write(place, [row for row in ROWS if row[1] == "cat"])
        with pytest.raises(UserError, match="one class, 'cat'; two classes or more are needed"):
            prepared(place)
        write(place, [(*row, "test" if row[1] == "cat" else "train") for row in ROWS], ("file", "label", "split"))
        with pytest.raises(UserError, match="training images of one class, 'dog'"):
            prepared(place)
        write(place, [])
        with pytest.raises(UserError, match="names no image"):
            prepared(place)
        write(place, [row[::-1] for row in ROWS], ("name", "label"))
        with pytest.raises(UserError, match="no column 'file' in the first line"):
            prepared(place)
        write(place, [(*row, "train", "test") for row in ROWS], ("file", "label", "split", "split"))
        with pytest.raises(UserError, match="two columns are named 'split'"):
            prepared(place)

    def test_options_that_contradict_are_refused(self, place: Path) -> None:
        with pytest.raises(ValueError, match="test_images is given too"):
            prepared(place, test_images=4, test_fraction=0.5)
        with pytest.raises(ValueError, match="must be"):
            prepared(place, value_range=[1, 0])


class TestPrepared:
    def test_files_are_named_as_in_the_table(
        self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        monkeypatch.chdir(tmp_path)
        outside = save(tmp_path / "other" / "cat9.png", seed=90)
        write(place, [*ROWS, (str(outside), "cat")])
        options = {"source": "image_table", "path": "photos/labels.csv", "image_size": 8, "test_images": 4}
        for command in (
            ("prepare", "--settings", *words(options), "--output", "data/mine"),
            ("files", "--data", "data/mine", "--output", "data/mine/files.csv"),
        ):
            status, told = lplgrad(*command)
            assert (status, "warning" in told) == (0, False), told
        with Path("data/mine/files.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["path"]: row["class"] for row in rows} == {**dict(ROWS), str(outside): "cat"}
        for split in ("train", "test"):
            images = np.load(f"data/mine/{split}_inputs.npy")
            names = [row["path"] for row in rows if row["split"] == split]
            assert all(
                np.array_equal(image, decode(place / name, 8, "crop"))
                for image, name in zip(images, names, strict=True)
            )
        assert json.loads(Path("data/mine/provenance.json").read_text())["from"] == "a table of images"

    def test_an_edited_table_is_noticed(
        self, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        monkeypatch.chdir(tmp_path)
        row = {"path": "photos/labels.csv", "test_images": 4}
        budgets = {"small": {"query_size": 2, "labels": 4}}
        run = {"datasets": ["mine"], "budgets": ["small"]}
        overlay = {"run": run, "datasets": {"mine": {"source": "image_table", **row, "budgets": budgets}}}
        Path("mine.yaml").write_text(json.dumps(overlay))
        study = read_study([HOME / "config.yaml", Path("mine.yaml")])
        options = study.datasets["mine"].checked_options.model_dump()
        lplgrad("prepare", "--settings", *words({"source": "image_table", **options}), "--output", "data/mine")
        assert changed_originals(study) == {}
        write(place, ROWS[1:])
        assert "photos/labels.csv has changed since data/mine was prepared" in changed_originals(study)["mine"]
