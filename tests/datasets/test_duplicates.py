"""Images that occur twice, byte for byte, in both splits or in several classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.machine.files import file_digest
from tests.image_files import prepare_folder, save


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Two splits of two classes, with four images of one size in each class, all different."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for number in range(4):
                save(tmp_path / "both" / split / name / f"{number}.bmp", seed=number_of(split, name, number))
    return tmp_path / "both"


def number_of(split: str, name: str, number: int) -> int:
    return number + 10 * (name == "dog") + 100 * (split == "test")


def found(data: DatasetArrays) -> dict[str, Any]:
    duplicates: dict[str, Any] = json.loads((data.folder / "provenance.json").read_text())["duplicates"]
    return duplicates


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]


def test_different_images_of_one_size_are_no_duplicates(
    tmp_path: Path, both: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare_folder(tmp_path, both)
    assert found(data) == {"test_images_in_pool": {"count": 0}, "images_in_several_classes": {"count": 0}}
    assert warnings(capsys) == []


def test_test_images_of_the_pool_are_counted(tmp_path: Path, both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(both / "train/cat/0.bmp", both / "test/cat/a.bmp")
    shutil.copy(both / "train/cat/0.bmp", both / "test/cat/b.bmp")
    shutil.copy(both / "train/dog/0.bmp", both / "train/dog/again.bmp")  # twice in one class of one split
    data = prepare_folder(tmp_path, both)
    example = [str(both / "test/cat/a.bmp"), str(both / "train/cat/0.bmp")]
    assert found(data)["test_images_in_pool"] == {"count": 2, "example": example}
    assert found(data)["images_in_several_classes"] == {"count": 0}
    assert warnings(capsys) == [
        f"warning: {data.folder}: 2 of 10 test images are in the training pool too, byte for byte, as "
        f"{' and '.join(example)}; remove one of each two"
    ]
    assert len(data.splits["test"].inputs) == 10, "nothing is removed"


def test_images_of_several_classes_are_counted(tmp_path: Path, both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(both / "train/cat/0.bmp", both / "train/dog/x.bmp")
    shutil.copy(both / "test/cat/0.bmp", both / "train/dog/y.bmp")
    data = prepare_folder(tmp_path, both)
    example = [str(both / "train/cat/0.bmp"), str(both / "train/dog/x.bmp")]
    assert found(data)["images_in_several_classes"] == {"count": 4, "example": example}
    assert found(data)["test_images_in_pool"]["count"] == 1
    assert [line.split(": ", 2)[2].split(",")[0] for line in warnings(capsys)] == [
        "1 of 8 test images are in the training pool too", "4 images are in another class too",
    ]  # fmt: skip


def test_a_file_of_a_size_of_its_own_is_not_read(tmp_path: Path, both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(path: Path) -> str:
        read.append(path.name)
        return file_digest(path)

    monkeypatch.setattr("lplgrad.datasets.prepared.duplicates.file_digest", noted)
    save(both / "train/cat/other.png", seed=7)
    prepare_folder(tmp_path, both)
    assert sorted(set(read)) == ["0.bmp", "1.bmp", "2.bmp", "3.bmp"]
