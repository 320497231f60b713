"""A folder of images as a data set: its splits, classes and archives, and what can be wrong with them."""

from __future__ import annotations

import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad.datasets import ImageFiles
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import UserError
from lplgrad.rounds.oracle import pool_labels
from lplgrad.study.layout import Layout
from lplgrad.study.reading import read_study
from lplgrad.study.validation import words
from tests.image_files import photos, prepare, prepare_folder, save

Call = Callable[..., tuple[int, str]]
HOME = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos")


class TestFolder:
    def test_classes_are_top_folders_and_the_split_is_stratified(self, tmp_path: Path, folder: Path) -> None:
        data = prepare_folder(tmp_path, folder, image_size=8, test_images=4)
        assert data.classes == ["cat", "dog"]
        assert data.splits["train"].inputs.shape == (8, 8, 8, 3)
        assert np.bincount(data.splits["test"].labels).tolist() == [2, 2]
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
        data = prepare_folder(tmp_path, both)
        assert len(data.splits["train"].inputs) == 12
        assert data.splits["test"].labels.tolist() == [0, 1]
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
            (("train", "test"), {"split_seed": 1}, "split_seed has no effect, as the test set is .*test; remove"),
            (("train", "Train", "test"), {}, "'Train', 'train' are both names of the train set"),
            (("train", "test", "Testing"), {}, "'Testing', 'test' are both names of the test set"),
            (("train", "val", "validation"), {}, "'val', 'validation' are both names of the validation set"),
            (("train",), {}, "'train' looks like a split, but there must be train and test, or train and val; place"),
            (("test", "horse"), {}, "'test' looks like a split"),
            (("fold1", "fold2", "fold3"), {}, "'fold1', 'fold2', 'fold3' all hold the same folders, or some of them"),
            (
                ("pool/pool", "holdout"),
                {},
                "'holdout', 'pool' all hold the same folders, or some of them, as splits do",
            ),
            (("train2014", "train2017", "val2017"), {}, "'train2014', 'train2017' are both names of the train set"),
        ],
    )
    def test_splits_that_cannot_be_told_apart_are_refused(
        self, tmp_path: Path, folder: Path, names: tuple[str, ...], options: dict[str, Any], problem: str
    ) -> None:
        both = self.splits(folder, *names)
        with pytest.raises(UserError, match=problem):
            prepare("image_folder", tmp_path, path=str(both), **options)

    @pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("cat", "dog")])
    def test_the_workflow_prepares_every_kind_of_folder(
        self, tmp_path: Path, folder: Path, lplgrad: Call, names: tuple[str, ...]
    ) -> None:
        """The workflow writes out all defaults, so no default may be refused."""
        path = folder if names == ("cat", "dog") else self.splits(folder, *names)
        row = {"source": "image_folder", "path": str(path), "image_size": 8}
        mine = {"datasets": {"mine": {**row, "budgets": {"small": {"query_size": 2, "labels": 2}}}}}
        settings = words(Layout(read_study([HOME / "config.yaml"], mine)).source_settings("mine"))
        assert "split_seed=0" in settings
        data, downloads = tmp_path / "data", tmp_path / "downloads"
        status, said = lplgrad("prepare", "--settings", *settings, "--downloads", downloads, "--output", data)
        assert (status, (data / "dataset.json").exists()) == (0, True), said

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
        data = prepare_folder(tmp_path, both)
        assert np.bincount(data.splits["test"].labels, minlength=3).tolist() == [3, 3, 0]
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
                r"class 'rare' has 1 example\(s\), but a split needs two",
            ),
            (lambda folder: None, {"test_images": 1}, "test_images: 1 of 12 examples in 2 classes"),
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
            prepare_folder(tmp_path, folder, **options)

    def test_one_of_two_ways_to_say_how_many_are_held_out(self, tmp_path: Path, lplgrad: Call) -> None:
        settings = "{source: image_folder, path: x, test_images: 3, test_fraction: 0.5}"
        status, told = lplgrad("prepare", "--settings", settings, "--output", tmp_path / "data")
        assert status == 1
        assert "test_fraction: test_images is given too; give one of them" in told

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
        from_archive = prepare_folder(tmp_path, archive, image_size=8)
        labels = pool_labels(from_archive)
        assert np.array_equal(labels, pool_labels(prepare_folder(tmp_path, folder, image_size=8)))
