"""Folders of images: splits, classes, links, names and archives, and all that can be wrong with them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lplgrad import datasets
from lplgrad.arrays import DatasetArrays, open_dataset
from lplgrad.datasets import ImageFiles, Prepared, image_folder
from lplgrad.datasets._folders import files_below
from lplgrad.errors import UserError
from lplgrad.preparation import write_dataset
from tests.image_files import save, write_tiff

Call = Callable[..., tuple[int, str]]


def prepare(name: str, downloads: Path, **options: Any) -> Prepared:
    source = datasets.load(name)
    return source.prepare(source.options(**options), downloads)


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two classes, images at several depths."""
        folder = tmp_path / "photos"
        for number in range(6):
            save(folder / "cat" / ("deep/er" if number % 2 else "") / f"{number}.png", seed=number)
            save(folder / "dog" / f"{number}.jpg", seed=10 + number)
        (folder / "cat" / "notes.txt").write_text("no image")
        (folder / ".hidden").mkdir()
        (folder / "cat" / ".DS_Store").write_text("")
        return folder

    def data(self, tmp_path: Path, folder: Path, **options: Any) -> DatasetArrays:
        return write_dataset(
            tmp_path / "data", prepare("image_folder", tmp_path, path=str(folder), **options), threads=3
        )

    def test_classes_are_top_folders_and_the_split_is_stratified(self, tmp_path: Path, folder: Path) -> None:
        data = self.data(tmp_path, folder, image_size=8, test_images=4)
        assert data.classes == ["cat", "dog"]
        assert data.train.images.shape == (8, 8, 8, 3)
        assert np.bincount(data.test.labels).tolist() == [2, 2]
        provenance = json.loads((tmp_path / "data" / "provenance.json").read_text())
        assert provenance["path"] == str(folder)
        assert "pillow" in provenance

    def test_the_same_seed_splits_alike_whatever_the_threads(self, tmp_path: Path, folder: Path) -> None:
        options = {"path": str(folder), "image_size": 8, "test_fraction": 0.25}
        manifests = []
        for threads, seed in ((1, 0), (4, 0), (1, 1)):
            write_dataset(tmp_path / "data", prepare("image_folder", tmp_path, **options, split_seed=seed), threads)
            manifests.append((tmp_path / "data" / "dataset.json").read_bytes())
        assert manifests[0] == manifests[1] != manifests[2]

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
        data = self.data(tmp_path, tmp_path / "photos", **options)
        assert sorted(data.train.images[:, 0, 0, 0].tolist()) == [levels[0]] * 4 + [levels[1]] * 4
        told = capsys.readouterr().err
        assert ("levels from 10 to 16 of 255" in told) == (not options)
        assert ("set value_range" in told) == (not options)

    @pytest.mark.parametrize("both", [True, False])
    def test_grey_of_8_and_of_16_bits_in_one_data_set_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], both: bool
    ) -> None:
        """Numbers of 12 bits in files of 16 look dark beside 8-bit images, and so would give a class away."""
        for name, deep in (("a", True), ("b", not both)):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for k in range(5):
                levels = np.arange(16).reshape(4, 4) * (4369 if deep else 17)
                image = Image.fromarray(levels.astype(np.uint16 if deep else np.uint8))
                image.save(tmp_path / "photos" / name / f"{k}.png")
        self.data(tmp_path, tmp_path / "photos")
        told = "train images: 4 of 8-bit numbers and 4 of unsigned 16-bit numbers; each kind is scaled by its own range"
        assert (told in capsys.readouterr().err) == both

    def test_a_pool_without_contrast_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pixels = np.full((6, 4, 4, 1), 7, dtype=np.uint8)
        part = datasets.Images(pixels, np.arange(6) % 2)
        write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))
        assert "every pixel of the training images has the same level, 7 of 255" in capsys.readouterr().err

    def test_defective_pixels_do_not_hide_that_a_pool_has_few_levels(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two of 2,400 pixels are black and white, and all others have 17 levels."""
        pixels = np.random.default_rng(1).integers(0, 17, size=(6, 20, 20, 1), dtype=np.uint8)
        pixels[0, 0, :2, 0] = 0, 255
        part = datasets.Images(pixels, np.arange(6) % 2)
        write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))
        assert "levels from 0 to 16 of 255" in capsys.readouterr().err

    @pytest.mark.parametrize("value_range", [[1, 0], [0, 0], [0], [0, 1, 2], [0, float("nan")]])
    def test_a_range_rises(self, value_range: list[float]) -> None:
        with pytest.raises(ValueError, match="value_range"):
            prepare("image_folder", Path(), path="x", value_range=value_range)

    def test_train_and_test_folders(self, tmp_path: Path, folder: Path) -> None:
        both = tmp_path / "both"
        both.mkdir()
        folder.rename(both / "train")
        for name in ("dog", "cat"):
            save(both / "test" / name / "x.png", seed=99)
        data = self.data(tmp_path, both)
        assert len(data.train.images) == 12
        assert data.test.labels.tolist() == [0, 1]
        save(both / "test" / "horse" / "x.png")
        with pytest.raises(UserError, match=r"test: class 'horse' is not among those of .*train"):
            prepare("image_folder", tmp_path, path=str(both))

    def splits(self, folder: Path, *names: str) -> Path:
        """A folder of splits, each with the classes and its own images."""
        both = folder.parent / "both"
        for number, name in enumerate(names):
            for kind in ("cat", "dog"):
                for k in range(number + 2):
                    save(both / name / kind / f"{k}.png", seed=100 * number + k)
        return both

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("train", "test"), ("Train", "Test"), ("TRAINING", "testing"), ("train", "val"), ("train", "Valid"),
            ("Train", "validation"), ("training", "evaluation"), ("training_set", "test_set"),
            ("train-images", "test images"), ("seg_train/seg_train", "seg_test/seg_test"), ("train2017", "val_2017"),
            ("train_1", "test-v2"), ("2017 train", "2017 eval"), ("train2017/train2017", "test2017/test2017"),
        ],
    )  # fmt: skip
    def test_splits_have_many_names(self, tmp_path: Path, folder: Path, train: str, test: str) -> None:
        both = self.splits(folder, train, test)
        save(both / "seg_pred" / "1.jpg")
        prepared = prepare("image_folder", tmp_path, path=str(both))
        assert prepared.classes == ["cat", "dog"]
        assert prepared.provenance["folders"] == {"train": [train], "test": [test]}
        assert isinstance(prepared.train, ImageFiles)
        assert isinstance(prepared.test, ImageFiles)
        assert prepared.train.paths == [both / train / kind / f"{k}.png" for kind in ("cat", "dog") for k in range(2)]
        assert prepared.test.paths == [both / test / kind / f"{k}.png" for kind in ("cat", "dog") for k in range(3)]

    @pytest.mark.parametrize(
        ("names", "validation", "used", "told"),
        [
            (("train", "test", "val"), None, {"train": ["train"], "test": ["test"]}, "val is not used; set validation"),
            (("train", "test", "val"), "ignore", {"train": ["train"], "test": ["test"]}, "val is not used"),
            (
                ("train", "test", "val"),
                "train",
                {"train": ["train", "val"], "test": ["test"]},
                "val is added to the tr",
            ),
            (("train", "test", "val"), "test", {"train": ["train"], "test": ["val"]}, "both/test is not used"),
            (("train", "val"), None, {"train": ["train"], "test": ["val"]}, "both/val, as there is no test folder"),
            (("train", "val"), "test", {"train": ["train"], "test": ["val"]}, "both/val, as there is no test folder"),
            (("train", "test", "extra"), None, {"train": ["train"], "test": ["test"]}, "passed over 'extra'"),
        ],
    )
    def test_what_a_validation_set_is_for_is_told(
        self,
        tmp_path: Path,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        names: tuple[str, ...],
        validation: str | None,
        used: dict[str, list[str]],
        told: str,
    ) -> None:
        both = self.splits(folder, *names)
        prepared = prepare("image_folder", tmp_path, path=str(both), validation=validation)
        assert prepared.provenance["folders"] == used
        counts = {name: 2 * (number + 2) for number, name in enumerate(names)}
        assert len(prepared.train.labels) == sum(counts[name] for name in used["train"])
        assert len(prepared.test.labels) == sum(counts[name] for name in used["test"])
        assert told in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("names", "options", "problem"),
        [
            (("train", "test"), {"validation": "train"}, "validation has no effect, as there is no validation folder"),
            (("train", "val"), {"validation": "train"}, "validation: train leaves no test set"),
            (("train", "val"), {"validation": "ignore"}, "validation: ignore leaves no test set"),
            (("train", "val"), {"test_fraction": 0.2}, "test_fraction has no effect, as the test set is .*val; remove"),
            (("train", "test"), {"test_images": 4}, "test_images has no effect, as the test set is .*test; remove"),
            (("train", "test"), {"split_seed": 0}, "split_seed has no effect, as the test set is .*test; remove"),
            (("train", "Train", "test"), {}, "'Train', 'train' are both names of the train set"),
            (("train", "test", "Testing"), {}, "'Testing', 'test' are both names of the test set"),
            (("train", "val", "validation"), {}, "'val', 'validation' are both names of the validation set"),
            (("train",), {}, "'train' looks like a split, but there must be train and test, or train and val; place"),
            (("test", "horse"), {}, "'test' looks like a split"),
            (("fold1", "fold2", "fold3"), {}, "'fold1', 'fold2', 'fold3' all hold the same folders, or some of them"),
            (("pool/pool", "holdout"), {}, "'holdout', 'pool' all hold the same folders, or some of them, as if they"),
            (("train2014", "train2017", "val2017"), {}, "'train2014', 'train2017' are both names of the train set"),
        ],
    )
    def test_splits_that_cannot_be_told_apart_are_refused(
        self, tmp_path: Path, folder: Path, names: tuple[str, ...], options: dict[str, Any], problem: str
    ) -> None:
        both = self.splits(folder, *names)
        with pytest.raises(UserError, match=problem):
            prepare("image_folder", tmp_path, path=str(both), **options)

    def test_classes_may_look_like_splits(self, tmp_path: Path, folder: Path) -> None:
        save(folder / "train" / "1.png")  # the vehicle
        save(folder / "train" / "2.png")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog", "train"]
        cameras = self.splits(folder, "camel", "horse")
        with pytest.raises(UserError, match="set top_folders to classes if they are classes"):
            prepare("image_folder", tmp_path, path=str(cameras))
        assert prepare("image_folder", tmp_path, path=str(cameras), top_folders="classes").classes == ["camel", "horse"]

    def test_classes_may_hold_folders_of_their_own_which_is_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cameras = self.splits(folder, "camel", "horse")
        (cameras / "horse" / "cat").rename(cameras / "horse" / "bird")
        assert prepare("image_folder", tmp_path, path=str(cameras)).classes == ["camel", "horse"]
        assert "the top folders are the classes, although there are folders in 'camel', 'horse'" in (
            capsys.readouterr().err
        )
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog"]
        assert capsys.readouterr().err.count("the top folders are the classes") == 0

    @pytest.mark.parametrize(
        ("train", "beside", "told"),
        [
            ("seg_train/seg_train", ["seg_pred/1.png", "seg_pred/2.png"], "'seg_train' looks like a split"),
            ("train/train", ["unlabeled/1.png", "unlabeled/2.png"], "'train' looks like a split"),
            ("train/images", ["unlabeled/1.png", "unlabeled/2.png"], "'train' looks like a split"),
            ("train", ["holdout/cat/1.png", "holdout/dog/1.png"], "'train' looks like a split"),
            ("train2017", ["unlabeled2017/1.png", "unlabeled2017/2.png"], "'train2017' looks like a split"),
            (
                "pool",
                ["holdout/cat/1.png", "holdout/dog/1.png"],
                "'holdout', 'pool' all hold the same folders, or some of them",
            ),
        ],
    )
    def test_a_split_is_not_taken_for_a_class(
        self, tmp_path: Path, folder: Path, train: str, beside: list[str], told: str
    ) -> None:
        both = self.splits(folder, train)
        save(both / Path(train).parts[0] / "cover.png")
        save(both / train / "cow" / "1.png")
        for name in beside:
            save(both / name)
        with pytest.raises(UserError, match=told):
            prepare("image_folder", tmp_path, path=str(both))

    def test_images_beside_the_folders_that_are_used_are_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = self.splits(folder, "train/train", "test")
        for place in (both, both / "train", both / "test"):
            save(place / "loose.png")
        assert prepare("image_folder", tmp_path, path=str(both)).classes == ["cat", "dog"]
        told = capsys.readouterr().err
        for place in (both, both / "train", both / "test"):
            assert f"{place}: passed over 1 image(s) outside of the class folders, as loose.png" in told

    def test_a_part_of_the_pool_may_hold_one_class(self, tmp_path: Path, folder: Path) -> None:
        both = self.splits(folder, "train", "test", "val")
        shutil.rmtree(both / "val" / "cat")
        train = prepare("image_folder", tmp_path, path=str(both), validation="train").train
        assert np.bincount(train.labels).tolist() == [2, 2 + 4]
        for place in ("test", "train"):
            shutil.rmtree(both / place / "cat")
            with pytest.raises(UserError, match=rf"both/{place}: 1 class, 'dog'; .* directly in the folder of the s"):
                prepare("image_folder", tmp_path, path=str(both), validation="train")

    def test_a_split_without_class_folders_is_told_what_to_do(self, tmp_path: Path, folder: Path) -> None:
        both = self.splits(folder, "train", "val")
        save(both / "test" / "1.png")
        with pytest.raises(UserError, match=r"test: this split has no folders of classes; .*set validation to test to"):
            prepare("image_folder", tmp_path, path=str(both))
        assert len(prepare("image_folder", tmp_path, path=str(both), validation="test").test.labels) == 6

    def test_a_class_without_test_images_is_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = self.splits(folder, "train", "test")
        save(both / "train" / "horse" / "1.png")
        data = self.data(tmp_path, both)
        assert np.bincount(data.test.labels, minlength=3).tolist() == [3, 3, 0]
        assert "test: no images of 1 class(es), as 'horse'" in capsys.readouterr().err

    def test_a_link_to_a_split_is_no_second_one(self, tmp_path: Path, folder: Path) -> None:
        both = self.splits(folder, "train", "val")
        (both / "Training").symlink_to(both / "train")
        assert prepare("image_folder", tmp_path, path=str(both)).provenance["folders"]["train"] == ["train"]

    @pytest.mark.parametrize(
        ("damage", "options", "problem"),
        [
            (
                lambda folder: folder.rename(folder.parent / "gone"),
                {},
                "photos: no such folder; place the images there",
            ),
            (lambda folder: (folder / "empty").mkdir(), {}, "empty: a class without images"),
            (lambda folder: (folder / "dog").rename(folder / "cat" / "dog"), {}, r"1 class\(es\)"),
            (
                lambda folder: save(folder / "rare" / "1.png"),
                {},
                r"class 'rare' has 1 image\(s\), but a split needs two",
            ),
            (lambda folder: None, {"test_images": 1}, "test_images: 1 of 12 images in 2 classes"),
            (
                lambda folder: save(folder / "dog" / "9.jpg", size=(9, 9)),
                {},
                r"different sizes \(40x30 and 9x9\); set image_size",
            ),
        ],
    )
    def test_what_is_wrong_is_told(
        self, tmp_path: Path, folder: Path, damage: Callable[[Path], object], options: dict[str, Any], problem: str
    ) -> None:
        damage(folder)
        with pytest.raises(UserError, match=problem):
            self.data(tmp_path, folder, **options)

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
        assert len(self.data(tmp_path, folder).train.images) == 10

    def test_settings_that_came_later_are_described_only_if_given(self) -> None:
        before = {"path": "x", "image_size": None, "fit": "crop", "test_images": None, "test_fraction": None}
        assert image_folder.Options(path="x").model_dump() == {**before, "split_seed": 0}
        given: dict[str, Any] = {"top_folders": "classes", "validation": "test", "value_range": [0, 4095]}
        assert image_folder.Options(path="x", **given).model_dump() == {**before, "split_seed": 0, **given}

    def test_one_of_two_ways_to_say_how_many_are_held_out(self, tmp_path: Path, lplgrad: Call) -> None:
        settings = "{source: image_folder, path: x, test_images: 3, test_fraction: 0.5}"
        status, told = lplgrad("prepare", "--settings", settings, "--output", tmp_path / "data")
        assert status == 1
        assert "test_fraction: test_images is given too; give one of them" in told

    def test_links_are_followed_and_never_round(self, tmp_path: Path, folder: Path) -> None:
        (folder / "dog").rename(tmp_path / "elsewhere")
        (folder / "dog").symlink_to(tmp_path / "elsewhere")
        (folder / "cat" / "round").symlink_to(folder / "cat")
        (folder / "cat" / "itself").symlink_to("itself")
        (folder / "cat" / "6.png").symlink_to(save(tmp_path / "outside.png", seed=77))
        data = self.data(tmp_path, folder, image_size=8)
        assert np.bincount(np.concatenate([data.train.labels, data.test.labels])).tolist() == [7, 6]

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
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog"]
        assert "passed over 1 image(s) outside of the class folders, as loose.png" in capsys.readouterr().err

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
        assert len(open_dataset(output).train.images) + len(open_dataset(output).test.images) == 16
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

    @pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
    def test_an_archive_of_a_folder(self, tmp_path: Path, folder: Path, ending: str) -> None:
        archive = tmp_path / f"photos{ending}"
        if ending == ".zip":
            with zipfile.ZipFile(archive, "w") as packed:
                for path in sorted(folder.rglob("*.*g")):
                    packed.write(path, path.relative_to(tmp_path))
        else:
            with tarfile.open(archive, "w:gz") as packed:
                packed.add(folder, "photos")
        from_archive = self.data(tmp_path, archive, image_size=8)
        labels = from_archive.train.labels.copy()
        assert np.array_equal(labels, self.data(tmp_path, folder, image_size=8).train.labels)
