"""Images become arrays: warnings about the pool, and images that cannot be read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.datasets.prepared.writing import write_dataset
from tests.image_files import photos, prepare_folder, write_tiff

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos")


class TestFolder:
    @pytest.mark.parametrize(
        ("number", "kind", "options", "levels"),
        [
            (np.uint16, 1, {}, (10, 16)),
            (np.uint16, 1, {"value_range": [0, 4095]}, (153, 255)),
            (np.int16, 2, {"value_range": [0, 4095]}, (153, 255)),
        ],
    )
    def test_brightness_alone_tells_classes_apart_and_a_pool_of_few_levels_is_told(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        number: type[np.generic],
        kind: int,
        options: dict[str, Any],
        levels: tuple[int, int],
    ) -> None:
        for name, value in (("dark", 2457), ("light", 4095)):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for k in range(5):
                path = tmp_path / "photos" / name / f"{k}.tif"
                write_tiff(path, np.full((4, 4), value).astype(number), kind=kind)
        data = prepare_folder(tmp_path, tmp_path / "photos", **options)
        assert sorted(data.splits["train"].inputs[:, 0, 0, 0].tolist()) == [levels[0]] * 4 + [levels[1]] * 4
        told = capsys.readouterr().err
        assert ("levels from 10 to 16 of 255" in told) == (not options)
        assert ("set value_range" in told) == (not options)

    @pytest.mark.parametrize(
        ("deep", "shallow", "told"),
        [
            (["a"], ["b"], True),
            (["a", "b"], [], False),
            (["train/a", "train/b"], ["test/a", "test/b"], True),
            (["train/a", "test/a"], ["train/b", "test/b"], True),
        ],
    )
    def test_grey_of_8_and_of_16_bits_in_one_data_set_is_told_once(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], deep: list[str], shallow: list[str], told: bool
    ) -> None:
        """Numbers of 12 bits in files of 16 look dark beside 8-bit images, and so give a class or a split away."""
        for number, factor, folders in ((np.uint16, 4369, deep), (np.uint8, 17, shallow)):
            for name in folders:
                (tmp_path / "photos" / name).mkdir(parents=True)
                for k in range(5):
                    image = Image.fromarray((np.arange(16).reshape(4, 4) * factor).astype(number))
                    image.save(tmp_path / "photos" / name / f"{k}.png")
        prepare_folder(tmp_path, tmp_path / "photos")
        warnings = [line for line in capsys.readouterr().err.splitlines() if "different kinds" in line]
        counts = f"{5 * len(shallow)} of 8-bit numbers and {5 * len(deep)} of unsigned 16-bit numbers"
        expected = f"warning: {tmp_path / 'data'}: images of different kinds of numbers: {counts}; each kind is scaled"
        assert [line.startswith(expected) for line in warnings] == [True] * told

    def test_a_pool_without_contrast_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pixels = np.full((6, 4, 4, 1), 7, dtype=np.uint8)
        part = Examples(pixels, np.arange(6) % 2)
        write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))
        assert "every pixel of the training images has the same level, 7 of 255" in capsys.readouterr().err

    def test_defective_pixels_do_not_hide_that_a_pool_has_few_levels(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two of 2,400 pixels are black and white, and all others have 17 levels."""
        pixels = np.random.default_rng(1).integers(0, 17, size=(6, 20, 20, 1), dtype=np.uint8)
        pixels[0, 0, :2, 0] = 0, 255
        part = Examples(pixels, np.arange(6) % 2)
        write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))
        assert "levels from 0 to 16 of 255" in capsys.readouterr().err

    def test_hundreds_of_unreadable_images_are_listed_in_a_file(
        self, tmp_path: Path, folder: Path, lplgrad: Call
    ) -> None:
        for number in range(300):
            (folder / "dog" / f"broken{number}.jpg").write_bytes(b"\xff\xd8 no more")
        settings = f"{{source: image_folder, path: '{folder}', image_size: 8}}"
        arguments = ["prepare", "--settings", settings, "--downloads", tmp_path, "--output", tmp_path / "data"]
        status, told = lplgrad(*arguments)
        assert status == 1
        listed = tmp_path / "data" / "unreadable.tsv"
        assert len(listed.read_text().splitlines()) >= 200
        assert told.count("broken") == 1
        assert str(listed) in told.splitlines()[-1]
        assert not (tmp_path / "data" / "dataset.json").exists()

    def test_unreadable_images_of_both_splits_are_listed_until_they_are_mended(
        self, tmp_path: Path, folder: Path, lplgrad: Call
    ) -> None:
        whole = (folder / "dog" / "0.jpg").read_bytes()
        for split in ("train", "test"):
            shutil.copytree(folder, tmp_path / "both" / split)
            for number in range(6):
                (tmp_path / "both" / split / "dog" / f"{number}.jpg").write_bytes(b"")
        (tmp_path / "both/train/cat").rename(tmp_path / "cats")  # nothing of this split can be read
        (tmp_path / "both/train/cat").mkdir()
        (tmp_path / "both/train/cat/0.png").write_bytes(b"")
        settings = f"{{source: image_folder, path: '{tmp_path / 'both'}'}}"
        arguments = ["prepare", "--settings", settings, "--output", tmp_path / "data"]
        status, told = lplgrad(*arguments)
        assert status == 1
        assert "error: 13 of 19 images cannot be read" in told
        listed = tmp_path / "data" / "unreadable.tsv"
        assert len(listed.read_text().splitlines()) == 13
        for path in [Path(line.split("\t")[0]) for line in listed.read_text().splitlines()]:
            path.write_bytes(whole)
        assert lplgrad(*arguments)[0] == 0
        assert not listed.exists()

    def test_a_system_that_cannot_claim_space_beforehand(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("os.posix_fallocate")
        assert len(prepare_folder(tmp_path, folder).splits["train"].inputs) == 10
