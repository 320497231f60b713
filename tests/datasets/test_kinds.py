"""Which files are images: told by their endings or their first bytes, read, refused or passed over, and counted."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from lplgrad.datasets.prepared import kinds
from lplgrad.datasets.prepared.images import decode
from lplgrad.datasets.prepared.kinds import START_BYTES, is_image, kind, kind_of, missing
from lplgrad.datasets.prepared.originals import change, listing
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json
from tests.image_files import photos, prepare, prepare_folder, save

Call = Callable[..., tuple[int, str]]
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
WRITTEN = [
    ("JPEG", "jpg"),
    ("PNG", "png"),
    ("GIF", "gif"),
    ("WEBP", "webp"),
    ("TIFF", "tif"),
    ("BMP", "bmp"),
    ("PPM", "ppm"),
]
WRITTEN += [("AVIF", "avif")] if features.check("avif") else []
WRITTEN += [("JPEG 2000", "jp2"), ("JPEG 2000", "j2k")] if features.check("jpg_2000") else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos")


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No optional library can read images."""
    missing.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("PIL.features.check", lambda name: False)
    yield
    missing.cache_clear()


@pytest.mark.parametrize(("expected", "end"), WRITTEN)
def test_an_image_is_known_by_its_first_bytes(tmp_path: Path, expected: str, end: str) -> None:
    path = save(tmp_path / f"image.{end}")
    assert kind_of(path.read_bytes()[:START_BYTES]) == expected
    bare = path.rename(tmp_path / "image")
    assert kind(bare) == expected
    assert is_image(bare)
    assert decode(bare, None, "crop").shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (HEIC, "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf", "HEIC"),
        (b"\0\0\0\x14ftypisom\0\0\x02\0isom", None),
        (bytes(128) + b"DICM", "DICOM"),
        (b"8BPS\0\1", "Photoshop"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "SVG"),
        (b"<svg>", "SVG"),
        (b"<?xml version='1.0'?><annotation>", None),
        (b"P3\n# by hand\n4 5\n255\n", "PPM"),
        (b"P1 is the first of 3 pages", None),
        (b"BM is short for benchmark, as everybody knows", None),
        (b"name,label\n", None),
        (b"", None),
    ],
)  # fmt: skip
def test_first_bytes(start: bytes, expected: str | None) -> None:
    assert kind_of(start) == expected


def test_what_is_a_jpeg_is_read_whatever_its_name(tmp_path: Path, folder: Path) -> None:
    before = prepare_folder(tmp_path, folder, image_size=8)
    arrays = {path.name: path.read_bytes() for path in (tmp_path / "data").glob("*.npy")}
    described = (tmp_path / "data" / "dataset.json").read_bytes()
    for number, name in enumerate(["0.jfif", "1.jpe", "2", "3.JPE", "4.image", "5.jpg_original"]):
        (folder / "dog" / f"{number}.jpg").rename(folder / "dog" / name)
    after = prepare_folder(tmp_path, folder, image_size=8)
    assert before.classes == after.classes
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").glob("*.npy")} == arrays
    assert (tmp_path / "data" / "dataset.json").read_bytes() == described


@pytest.mark.usefixtures("nothing_installed")
class TestMissingLibraries:
    @pytest.mark.parametrize("end", ["heic", "HEIF", "xyz"])
    def test_images_that_need_a_library_are_refused_in_one_line(self, tmp_path: Path, folder: Path, end: str) -> None:
        for number in range(30):
            (folder / "dog" / f"x{number}.{end}").write_bytes(HEIC)
        with pytest.raises(UserError) as error:
            prepare("image_folder", tmp_path, path=str(folder))
        assert str(error.value) == (
            f"{folder}: 30 file(s) are HEIC images, as {folder / f'dog/x0.{end}'}, which need pillow-heif: pip install "
            "pillow-heif; or remove them"
        )

    def test_a_class_of_such_images_only_is_named_by_its_kind(self, tmp_path: Path, folder: Path) -> None:
        (folder / "bird").mkdir()
        (folder / "bird" / "1.heic").write_bytes(HEIC)
        with pytest.raises(UserError, match=r"1 file\(s\) are HEIC images"):
            prepare("image_folder", tmp_path, path=str(folder))

    @pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
    def test_a_pillow_without_a_format(self, tmp_path: Path, folder: Path) -> None:
        save(folder / "dog" / "x.avif")
        with pytest.raises(
            UserError, match=r"1 file\(s\) are AVIF images, .* need a Pillow that reads AVIF: pip install"
        ):
            prepare("image_folder", tmp_path, path=str(folder))

    def test_one_under_a_wrong_name_is_listed_as_unreadable_with_what_it_needs(
        self, tmp_path: Path, folder: Path
    ) -> None:
        (folder / "dog" / "x.jpg").write_bytes(HEIC)
        with pytest.raises(UserError, match=r"dog/x.jpg \(a file of the kind HEIC, which needs pillow-heif: pip inst"):
            prepare_folder(tmp_path, folder, image_size=8)


@pytest.mark.skipif(missing("HEIC") is not None, reason="needs pillow-heif")
def test_heic_images_are_read_upright_in_several_threads(tmp_path: Path, folder: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(20):
        Image.fromarray(pixels).save(folder / "dog" / f"x{number}.heic", exif=exif.tobytes(), quality=90)
    found = decode(folder / "dog" / "x0.heic", None, "crop")
    assert found.shape == (60, 40, 3)
    assert found[10, 30].min() > 200
    assert found[10, 10].max() < 60
    data = prepare_folder(tmp_path, folder, image_size=8)
    assert len(data.splits["train"].inputs) + len(data.splits["test"].inputs) == 32
    assert "pillow_heif" in json.loads((tmp_path / "data" / "provenance.json").read_text())


def test_what_is_passed_over_is_counted_and_images_among_it_are_warned_of(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "dog" / "scan").write_bytes(bytes(128) + b"DICM" + bytes(99))
    save(folder / "dog" / "photo.tif").rename(folder / "dog" / "photo.NEF")
    save(folder / "loose.png")
    (folder / "labels.csv").write_text("a,b")
    data = prepare_folder(tmp_path, folder, image_size=8)
    assert len(data.splits["train"].inputs) + len(data.splits["test"].inputs) == 12
    told = capsys.readouterr().err.splitlines()
    warnings = [line for line in told if line.startswith("warning: ")]
    convert = "convert them to PNG or TIFF to use them"
    kind_of_scan, kind_of_photo = (
        "of a kind that is not read (DICOM), as",
        "of a kind that is not read (raw or other TIFF), as",
    )
    assert sorted(warnings) == sorted(
        [
            f"warning: {folder}: passed over 1 image(s) {kind_of_scan} {folder / 'dog/scan'}; {convert}",
            f"warning: {folder}: passed over 1 image(s) {kind_of_photo} {folder / 'dog/photo.NEF'}; {convert}",
            f"warning: {folder}: passed over 1 image(s) outside of the class folders, as loose.png",
        ]
    )
    passed = "images passed over: 1 .nef, 1 .png, 1 without ending; other files passed over: 1 .csv, 1 .txt"
    assert f"{folder}: images: 6 .jpg, 6 .png; {passed}" in told
    assert json.loads((tmp_path / "data" / "provenance.json").read_text())["files"] == {
        "used": {".jpg": 6, ".png": 6},
        "passed_over": {".nef": 1, ".png": 1, "without ending": 1},
        "other": {".csv": 1, ".txt": 1},
    }


def test_an_image_with_several_paths_is_counted_once(tmp_path: Path, folder: Path) -> None:
    both = tmp_path / "both"
    for split in ("train", "test"):
        (both / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            save(both / "all" / split / name / "0.png", seed=len(split + name))
            (both / split / name).symlink_to(both / "all" / split / name)
    (both / "train" / "dog" / "again.png").symlink_to(both / "train" / "dog" / "0.png")
    counts: Any = prepare("image_folder", tmp_path, path=str(both)).provenance["files"]
    assert counts == {"used": {".png": 4}, "passed_over": {}, "other": {}}


def test_the_listing_and_the_preparation_see_the_same_images(tmp_path: Path, folder: Path) -> None:
    (folder / "dog" / "0.jpg").rename(folder / "dog" / "0")
    (folder / "dog" / "1.jpg").rename(folder / "dog" / "1.jfif")
    (folder / "dog" / "scan").write_bytes(bytes(128) + b"DICM")
    (folder / "dog" / "text").write_text("no image")
    save(folder / "@eaDir" / "1.png")
    counts: Any = prepare("image_folder", tmp_path, path=str(folder)).provenance["files"]
    assert listing(folder)["files"] == sum(counts["used"].values()) + sum(counts["passed_over"].values()) == 13


def test_a_listing_opens_only_files_whose_ending_is_of_no_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "dog" / "x.heic").write_bytes(HEIC)
    os.mkfifo(folder / "dog" / "pipe")
    opened: list[str] = []
    start = kinds._start

    def noted(path: Path) -> bytes:
        opened.append(path.name)
        return start(path)

    monkeypatch.setattr("lplgrad.datasets.prepared.kinds._start", noted)
    assert listing(folder)["files"] == 13
    assert sorted(opened) == ["notes.txt", "pipe"]


class TestEarlierListing:
    """Data sets that a version prepared that knew images by their endings only."""

    def test_the_data_set_stays_valid_and_new_images_are_warned_of(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = listing(folder)
        del known["rule"]
        write_json(tmp_path / "data/originals.json", known)
        assert change(tmp_path / "data/originals.json", folder) is None
        assert capsys.readouterr().err == ""
        (folder / "dog" / "new.jpg").write_bytes((folder / "dog" / "0.jpg").read_bytes())
        assert change(tmp_path / "data/originals.json", folder) == "13 files, not 12"
        (folder / "dog" / "new.jpg").rename(folder / "dog" / "new.jfif")
        save(folder / "dog" / "@eaDir" / "2.png")
        assert change(tmp_path / "data/originals.json", folder) == "13 files, not 12"
        (folder / "dog" / "@eaDir" / "2.png").unlink()
        assert change(tmp_path / "data/originals.json", folder) is None
        told = capsys.readouterr().err
        assert told.startswith(f"warning: {tmp_path / 'data'}: an earlier version prepared it and took 12 files of ")
        assert "this version finds 13; to use those, run Snakemake with --forcerun" in told
        os.utime(folder / "dog" / "1.jpg")
        assert change(tmp_path / "data/originals.json", folder) == (
            "other times, but the same names and sizes, as after a copy"
        )

    def test_a_listing_of_this_version_is_not_compared_by_the_earlier_rule(self, tmp_path: Path, folder: Path) -> None:
        write_json(tmp_path / "originals.json", listing(folder))
        assert change(tmp_path / "originals.json", folder) is None
        (folder / "dog" / "new.jfif").write_bytes((folder / "dog" / "0.jpg").read_bytes())
        assert change(tmp_path / "originals.json", folder) == "13 files, not 12"

    def test_a_listing_of_a_later_version_is_refused(self, tmp_path: Path, folder: Path) -> None:
        write_json(tmp_path / "originals.json", {**listing(folder), "rule": 3})
        with pytest.raises(UserError, match="not a listing of files"):
            change(tmp_path / "originals.json", folder)
