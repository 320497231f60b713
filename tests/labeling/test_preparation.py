"""A data set that a person labels, as it is prepared: pool, test set, and what cannot be begun with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lplgrad.datasets.prepared.arrays import open_dataset
from lplgrad.datasets.prepared.images import decode
from lplgrad.datasets.prepared.shards import known_images
from tests.labeling.loop import Call, Loop, image, photos, single

pytestmark = pytest.mark.slow


class TestPreparation:
    def test_the_pool_has_labelled_and_unlabelled_images(self, loop: Loop) -> None:
        data = open_dataset(Path("data/photos"))
        known = known_images(data.folder)
        assert len(known.names) == 3 * 5 + 30
        assert len(data.splits["test"].labels) == 3  # a fifth of six, rounded: one of each class
        for index, name in enumerate(known.names):
            pixels = decode(Path("photos", name), 8, "crop")
            assert np.array_equal(data.splits["train"].inputs[index], pixels)
        classes = {name: Path(name).parent.name for name in known.names[:15]}
        assert loop.labels(1) == {Path(name).stem: label for name, label in classes.items()}

    def test_a_test_set_of_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call) -> None:
        monkeypatch.chdir(tmp_path)
        photos(tmp_path / "photos", test=2)
        shutil.copy("photos/test/cat/cat80.png", "photos/labeled/cat/again.png")
        loop = Loop(lplgrad)
        status, said = loop.prepare()
        assert status == 0
        assert "1 image(s) are there twice; each is used once" in said
        assert "48 images in the pool and 6 test images" in said

    def test_an_image_that_is_labelled_and_unlabelled_counts_once(self, here: Path, lplgrad: Call) -> None:
        shutil.copy("photos/unlabeled/trip/owl53.png", "photos/labeled/owl/copied.png")
        loop = Loop(lplgrad)
        loop.begin()
        names = known_images(Path("data/photos")).names
        assert len(names) == len(set(names)) == 45
        assert "labeled/owl/copied.png" in names

    def test_other_folders_are_passed_over_in_sight(self, here: Path, lplgrad: Call) -> None:
        image(here / "photos" / "new" / "x.png", 1, 999)
        status, said = Loop(lplgrad).prepare()
        assert status == 0
        assert "warning: photos: passed over 'new', beside 'labeled', 'unlabeled'" in said

    @pytest.mark.parametrize(
        ("removed", "parts"),
        [
            (["labeled/dog", "labeled/owl"], ("labelled images of 1 class(es)", "labeled/<class>/")),
            (["labeled"], ("photos: ", "labeled/<class>/ and unlabeled/")),
            (["unlabeled"], ("photos: ", "labeled/<class>/ and unlabeled/")),
            ([""], ("photos: no such folder",)),
        ],
    )
    def test_what_a_person_cannot_begin_with(
        self, here: Path, lplgrad: Call, removed: list[str], parts: tuple[str, ...]
    ) -> None:
        for name in removed:
            shutil.rmtree(here / "photos" / name)
        status, said = Loop(lplgrad).prepare()
        assert status == 1
        single(said, *parts)
        assert not Path("data/photos/dataset.json").exists()

    def test_an_image_in_two_classes(self, here: Path, lplgrad: Call) -> None:
        shutil.copy("photos/labeled/cat/cat03.png", "photos/labeled/dog/same.png")
        status, said = Loop(lplgrad).prepare()
        assert status == 1
        single(said, "dog/same.png: is the same image as photos/labeled/cat/cat03.png, in another class")

    def test_a_class_with_one_image_trains_and_says_so(self, here: Path, lplgrad: Call) -> None:
        for path in sorted(Path("photos/labeled/owl").iterdir())[1:]:
            path.unlink()
        status, said = Loop(lplgrad).prepare()
        assert status == 0
        assert "warning: photos/labeled: 1 labelled image(s) of class 'owl'" in said
        assert open_dataset(Path("data/photos")).splits["test"].labels.tolist() == [0, 1]

    def test_one_image_of_each_class_leaves_no_test_set(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        monkeypatch.chdir(tmp_path)
        photos(tmp_path / "photos", labeled=1)
        status, said = Loop(lplgrad).prepare()
        assert status == 1
        single(said, "no class has two images", "test/<class>/")

    def test_a_simulated_study_uses_the_labelled_images_only(self, here: Path, lplgrad: Call) -> None:
        settings = ["source=image_folder", "path=photos", "image_size=8"]
        status, said = lplgrad("prepare", "--settings", *settings, "--output", "data/benchmark")
        assert status == 0, said
        data = open_dataset(Path("data/benchmark"))
        assert data.classes == ["cat", "dog", "owl"]
        assert len(data.splits["train"].inputs) + len(data.splits["test"].inputs) == 18
