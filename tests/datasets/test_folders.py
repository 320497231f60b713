"""What lies in a folder of images: links, odd names, and what is passed over."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad.datasets._folders import files_below
from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.datasets.prepared.originals import listing
from lplgrad.machine.errors import UserError
from lplgrad.rounds.oracle import pool_labels
from tests.image_files import photos, prepare, prepare_folder, save

Call = Callable[..., tuple[int, str]]
JUNK_FOLDERS = [
    "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "__pycache__", "#recycle",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos")


class TestFolder:
    def test_links_are_followed_and_never_round(self, tmp_path: Path, folder: Path) -> None:
        (folder / "dog").rename(tmp_path / "elsewhere")
        (folder / "dog").symlink_to(tmp_path / "elsewhere")
        (folder / "cat" / "round").symlink_to(folder / "cat")
        (folder / "cat" / "itself").symlink_to("itself")
        (folder / "cat" / "6.png").symlink_to(save(tmp_path / "outside.png", seed=77))
        data = prepare_folder(tmp_path, folder, image_size=8)
        assert np.bincount(np.concatenate([pool_labels(data), data.splits["test"].labels])).tolist() == [7, 6]

    @pytest.mark.parametrize("link", ["a", "z"])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_an_image_is_listed_once_by_its_real_path_whatever_the_order_of_the_disk(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, link: str, backwards: bool
    ) -> None:
        (folder / "cat" / link).symlink_to(folder / "cat" / "deep")
        (folder / "cat" / f"{link}.png").symlink_to(folder / "cat" / "2.png")
        scandir = os.scandir
        monkeypatch.setattr(
            "os.scandir", lambda place: sorted(scandir(place), key=lambda entry: entry.name, reverse=backwards)
        )
        files = files_below(folder / "cat")
        names = [path.relative_to(folder / "cat").as_posix() for path in files]
        assert names == ["0.png", "2.png", "4.png", "deep/er/1.png", "deep/er/3.png", "deep/er/5.png", "notes.txt"]

    @pytest.mark.parametrize(
        ("link", "target"),
        [("dog/7.png", "cat/0.png"), ("bird", "dog"), ("dog/cats", "cat/deep"), ("dog/up", "")],
    )
    def test_an_image_in_two_classes_is_refused(self, tmp_path: Path, folder: Path, link: str, target: str) -> None:
        (folder / link).symlink_to(folder / target)
        with pytest.raises(UserError, match=r"photos/.*g: is the same file as .*photos/.*g through a link"):
            prepare("image_folder", tmp_path, path=str(folder))

    def test_an_image_in_both_splits_is_refused(self, tmp_path: Path, folder: Path) -> None:
        shutil.copytree(folder, tmp_path / "both/test")
        folder.rename(tmp_path / "both/train")
        (tmp_path / "both/test/cat/x.png").symlink_to(tmp_path / "both/train/cat/0.png")
        with pytest.raises(UserError, match=r"both/test/cat/x.png: is the same file as .*both/train/cat/0.png"):
            prepare("image_folder", tmp_path, path=str(tmp_path / "both"))

    def test_a_folder_that_cannot_be_read_is_not_passed_over(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scandir = os.scandir

        def refuse(place: Path) -> Any:
            if Path(place).name == "deep":
                raise PermissionError(errno.EACCES, "Permission denied", str(place))
            return scandir(place)

        monkeypatch.setattr("os.scandir", refuse)
        with pytest.raises(PermissionError, match="deep"):
            files_below(folder / "cat")

    def test_what_lies_outside_of_the_classes_is_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(folder / "loose.png")
        save(folder / "__MACOSX" / "cat" / "1.png")
        (folder / "itself.png").symlink_to("itself.png")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog"]
        assert "passed over 1 image(s) outside of the class folders, as loose.png" in capsys.readouterr().err

    def test_hidden_files_and_folders_are_left_out_at_any_depth(self, folder: Path) -> None:
        known, files = listing(folder), list(files_below(folder))
        save(folder / "cat" / ".hidden.png")
        for name in (".hidden", ".git", *JUNK_FOLDERS):
            save(folder / "cat" / "deep" / name / "1.png")
        assert list(files_below(folder)) == files
        assert listing(folder) == known

    def test_folders_and_files_of_systems_are_no_classes_and_no_images(self, tmp_path: Path, folder: Path) -> None:
        for name in JUNK_FOLDERS:
            save(folder / name / "1.png")
            save(folder / name / "2.png")
        for name in ("Thumbs.db", "thumbs.db", "desktop.ini", "SYNOPHOTO_THUMB_M.jpg"):
            shutil.copy(folder / "dog/0.jpg", folder / "cat" / name)
        for split in ("train", "test"):
            shutil.copytree(folder, tmp_path / "both" / split)
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog"]
        both = prepare("image_folder", tmp_path, path=str(tmp_path / "both"))
        assert (both.classes, len(both.train.labels)) == (["cat", "dog"], 12)

    def test_names_that_only_resemble_those_of_systems_are_classes(self, tmp_path: Path, folder: Path) -> None:
        names = ["@eaDir2", "__MACOSX_", "lost", "recycle bin", "thumbs"]
        for name in names:
            shutil.copytree(folder / "dog", folder / name)
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == sorted([*names, "cat", "dog"])
        assert listing(folder)["files"] == 12 + 6 * len(names)

    def test_an_archive_may_hold_folders_of_systems_beside_its_folder(self, tmp_path: Path, folder: Path) -> None:
        with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
            for path in sorted(folder.rglob("*.*g")):
                packed.write(path, path.relative_to(tmp_path))
            for name in JUNK_FOLDERS:
                packed.write(folder / "cat/0.png", f"{name}/0.png")
        assert prepare("image_folder", tmp_path, path=str(tmp_path / "photos.zip")).classes == ["cat", "dog"]

    def test_the_two_ways_to_write_an_accent_are_one_name(self, tmp_path: Path, folder: Path) -> None:
        composed, decomposed = "caf\xe9", "cafe\u0301"
        shutil.copytree(folder, tmp_path / "both/train")
        shutil.copytree(folder, tmp_path / "both/test")
        (tmp_path / "both/train/cat").rename(tmp_path / "both/train" / decomposed)
        (tmp_path / "both/test/cat").rename(tmp_path / "both/test" / composed)
        assert prepare("image_folder", tmp_path, path=str(tmp_path / "both")).classes == [composed, "dog"]
        (tmp_path / "both/train/dog").rename(tmp_path / "both/train" / composed)
        with pytest.raises(UserError, match=r"the folders 'cafe\\u0301' and 'caf\\xe9' have the same name in Unicode"):
            prepare("image_folder", tmp_path, path=str(tmp_path / "both"))

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            (b"caf\xe9", r"photos/caf\\xe9: the name of this class is not UTF-8; rename the folder"),
            (b"a\tb\nc", r"the name 'a\\tb\\nc' of a class cannot be printed"),
            (b"  ", r"the name '  ' of a class cannot be printed"),
            ("\u200b\xa0".encode(), r"the name '\\u200b\\xa0' of a class cannot be printed"),
            (b"\x1b[31mred", r"the name '\\x1b\[31mred' of a class cannot be printed"),
        ],
    )
    def test_a_class_whose_name_cannot_be_printed_is_refused_at_once(
        self, tmp_path: Path, folder: Path, name: bytes, told: str
    ) -> None:
        (folder / "dog").rename(folder / os.fsdecode(name))
        with pytest.raises(UserError, match=told):
            prepare("image_folder", tmp_path, path=str(folder))

    def test_classes_that_differ_in_case_only_are_two_and_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if (folder / "DOG").exists():
            pytest.skip("a file system that ignores case")
        shutil.copytree(folder / "dog", folder / "Dog")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["Dog", "cat", "dog"]
        assert "the classes 'Dog' and 'dog' differ in case only, and are kept apart" in capsys.readouterr().err

    def test_classes_that_look_alike_are_not_said_to_differ_in_case(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "cat").rename(folder / "fi")
        (folder / "dog").rename(folder / "\ufb01")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["fi", "\ufb01"]
        assert r"the classes 'fi' and '\ufb01' differ only in characters that Unicode takes" in capsys.readouterr().err

    def test_names_of_files_may_be_anything(self, tmp_path: Path, folder: Path, lplgrad: Call) -> None:
        names = [b"caf\xe9.png", b"a\tb\nc.png", b"x" * 251 + b".png", "caf\xe9.png".encode()]
        for name in names:
            shutil.copy(folder / "cat/0.png", folder / "cat" / os.fsdecode(name))
        output = tmp_path / "data"
        arguments = ["prepare", "--settings", f"{{source: image_folder, path: '{folder}'}}", "--output", output]
        assert lplgrad(*arguments)[0] == 0
        assert len(open_dataset(output).splits["train"].inputs) + len(open_dataset(output).splits["test"].inputs) == 16
        for name in names:
            (folder / "cat" / os.fsdecode(name)).write_bytes(b"")
        status, told = lplgrad(*arguments)
        assert status == 1
        assert r"4 of 16 images cannot be read, the first is " in told
        listed = [line.split("\t") for line in (output / "unreadable.tsv").read_text(encoding="utf-8").splitlines()]
        assert all(len(line) == 2 for line in listed)
        assert {Path(line[0]).name for line in listed} == {
            r"caf\xe9.png", r"a\tb\nc.png", "x" * 251 + ".png", "caf\xe9.png"
        }  # fmt: skip
