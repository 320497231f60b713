"""Data that changes after it was prepared is noticed before it can change a result."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from PIL import Image

from lplgrad.cli import main
from lplgrad.datasets.prepared.arrays import DatasetArrays, open_dataset, sha256
from lplgrad.datasets.prepared.originals import change, listing
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_json
from lplgrad.rounds.oracle import pool_labels
from lplgrad.study.availability import changed_originals
from lplgrad.study.reading import read_study

HOME = Path(__file__).parents[2]


class TestArrays:
    """The arrays of a prepared data set."""

    def test_shifted_labels_are_refused_when_the_data_set_is_opened(self, data: DatasetArrays) -> None:
        path = data.folder / "train_labels.npy"
        np.save(path, (pool_labels(data) + 1) % 4)
        with pytest.raises(UserError, match=r"train_labels\.npy: changed since it was prepared"):
            open_dataset(data.folder)

    @pytest.mark.parametrize("split", ["train", "test"])
    def test_swapped_images_are_refused_although_their_size_is_the_same(self, data: DatasetArrays, split: str) -> None:
        path = data.folder / f"{split}_inputs.npy"
        images = np.load(path)
        other = data.folder.parent / "other.npy"
        np.save(other, images[::-1].copy())
        os.utime(other, ns=(0, 0))  # an old file may take the place of the prepared one
        other.replace(path)
        with pytest.raises(UserError, match=rf"{split}_inputs\.npy: changed since it was prepared"):
            open_dataset(data.folder)

    def test_a_copy_with_other_times_is_still_the_same_data_set(
        self, data: DatasetArrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(data.folder, tmp_path / "copy", copy_function=shutil.copyfile)
        read = self.images_read(monkeypatch)
        assert open_dataset(tmp_path / "copy").classes == data.classes
        assert read == ["images", "images"]
        open_dataset(tmp_path / "copy")
        assert read == ["images", "images"], "they were compared once"

    @staticmethod
    def images_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The images whose checksum is computed from now on."""
        read: list[str] = []

        def counted(array: npt.NDArray[Any]) -> str:
            read.extend(["images"] * (array.ndim == 4))
            return sha256(array)

        monkeypatch.setattr("lplgrad.datasets.prepared.arrays.sha256", counted)
        return read

    def test_images_are_not_read_while_size_and_time_are_the_same(
        self, data: DatasetArrays, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = self.images_read(monkeypatch)
        open_dataset(data.folder)
        assert read == []

    def test_a_broken_stamp_leads_to_a_comparison(self, data: DatasetArrays, monkeypatch: pytest.MonkeyPatch) -> None:
        (data.folder / "stamps.json").write_text("[1")
        read = self.images_read(monkeypatch)
        open_dataset(data.folder)
        assert read == ["images", "images"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of six images in two classes, and a study of it in ``mine.yaml``."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    for name, grey in (("cats", 40), ("dogs", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), grey + number).save(folder / name / f"{number}.png")
    return folder


def prepare(lplgrad: Callable[..., tuple[int, str]], path: Path) -> None:
    row = {"source": "image_folder", "path": str(path), "image_size": 8, "test_fraction": 0.34}
    study = {
        "study": "mine", "run": {"budgets": ["small"], "datasets": ["pets"], "strategies": ["random"], "seeds": [1]},
        "datasets": {"pets": {**row, "training": {"epochs": 1, "milestones": []},
                              "budgets": {"small": {"query_size": 2, "labels": 4}}}},
    }  # fmt: skip
    Path("mine.yaml").write_text(yaml.safe_dump(study))
    assert lplgrad("prepare", "--settings", yaml.safe_dump(row), "--output", "data/pets")[0] == 0


def problem() -> str:
    """What a run of the study would say of its data."""
    return " ".join(changed_originals(read_study([HOME / "config.yaml", Path("mine.yaml")])).values())


class TestOriginals:
    """The files that a data set was prepared from."""

    def test_nothing_is_said_while_nothing_changes(self, photos: Path, lplgrad: Callable[..., tuple[int, str]]) -> None:
        prepare(lplgrad, photos)
        assert problem() == ""
        (photos / "cats" / "notes.txt").write_text("not an image")
        (photos / "cats" / ".hidden.png").write_text("not an image")
        assert problem() == ""
        shutil.rmtree(photos)
        assert problem() == "", "the originals are no longer needed"

    @pytest.mark.parametrize(
        ("edit", "what"),
        [
            (lambda folder: Image.new("L", (8, 8)).save(folder / "cats" / "new.png"), "(13 files, not 12)"),
            (lambda folder: (folder / "cats" / "0.png").unlink(), "(11 files, not 12)"),
            (lambda folder: (folder / "cats" / "0.png").rename(folder / "dogs" / "x.png"), "(other names or sizes)"),
            (lambda folder: Image.new("L", (90, 80)).save(folder / "cats" / "0.png"), "(other names or sizes)"),
            (
                lambda folder: os.utime(folder / "cats" / "0.png"),
                "(other times, but the same names and sizes, as after a copy)",
            ),
            (
                lambda folder: shutil.copytree(folder / "cats", folder / "birds"),
                "(18 files, not 12)",
            ),
        ],
    )
    def test_a_changed_folder_is_noticed_and_can_be_prepared_again_or_kept(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]], edit: Callable[[Path], object], what: str
    ) -> None:
        prepare(lplgrad, photos)
        time.sleep(0.01)
        edit(photos)
        said = problem()
        assert said.startswith(
            f"datasets.pets: {photos} has changed since data/pets was prepared {what}; to go on with "
        )
        assert "to use the images as they are now, run Snakemake with --forcerun data/pets/dataset.json" in said
        status, error = lplgrad("study", HOME / "config.yaml", "mine.yaml")
        assert status == 1
        assert what in error
        Path("data/pets/originals.json").unlink()
        assert problem() == "", "the images that were prepared are kept"
        Path("data/pets/dataset.json").unlink()
        prepare(lplgrad, photos)
        assert problem() == ""

    def test_status_says_so_too(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        prepare(lplgrad, photos)
        (photos / "cats" / "0.png").unlink()
        capsys.readouterr()
        assert main(["status", str(HOME / "config.yaml"), "mine.yaml"]) == 0
        assert capsys.readouterr().out.startswith(f"changed: datasets.pets: {photos} has changed since")

    def test_status_names_a_source_that_is_not_the_prepared_one_and_warnings_of_prepare(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        prepare(lplgrad, photos)
        log = Path("logs/mine/pets/prepare.log")
        log.parent.mkdir(parents=True)
        log.write_text("train images 8/8\nwarning: data/pets: levels\n")
        Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace(str(photos), str(photos / "cats")))
        capsys.readouterr()
        assert main(["status", str(HOME / "config.yaml"), "mine.yaml"]) == 0
        first, second, *_ = capsys.readouterr().out.splitlines()
        assert first.startswith("wrong data: datasets.pets: data/pets was prepared with another path")
        assert second == "data set pets: warning: data/pets: levels"

    @pytest.mark.slow
    def test_snakemake_refuses_a_changed_folder_unless_it_is_told_what_to_do(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        prepare(lplgrad, photos)
        Path("mine.yaml").write_text(f"{Path('mine.yaml').read_text()}data_dir: ./data/\n")
        (photos / "cats" / "0.png").unlink()

        def snakemake(*arguments: str) -> tuple[int, str]:
            command = [sys.executable, "-m", "snakemake", "--snakefile", str(HOME / "Snakefile"), "--cores", "1"]
            done = subprocess.run(
                [*command, "--configfile", "mine.yaml", *arguments], capture_output=True, text=True, timeout=120
            )
            return done.returncode, done.stdout + done.stderr

        # Neither what is forced nor the target prepares the data set again.
        status, said = snakemake("-n", "-R", "start", "--", "data/pets/dataset.json")
        assert status == 1
        assert "photos has changed since data/pets was prepared (11 files, not 12)" in said
        status, said = snakemake("--unlock")
        assert status == 0
        assert "photos has changed since" in said
        for forced in (["-n", "--forcerun=data/pets/dataset.json"], ["-n", "-R", "prepare"], ["-nF"]):
            status, said = snakemake(*forced)
            assert status == 0
            assert re.search(r"^prepare +1$", said, re.MULTILINE)

    def test_a_replaced_archive_is_noticed(self, photos: Path, lplgrad: Callable[..., tuple[int, str]]) -> None:
        def pack() -> None:
            with tarfile.open("photos.tar", "w") as archive:
                archive.add(photos, "photos")

        pack()
        prepare(lplgrad, Path("photos.tar"))
        assert problem() == ""
        Image.new("L", (8, 8)).save(photos / "cats" / "new.png")
        pack()
        assert "photos.tar has changed since data/pets was prepared" in problem()

    def test_a_preparation_that_fails_leaves_what_was_prepared(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]]
    ) -> None:
        prepare(lplgrad, photos)
        before = {path.name: path.read_bytes() for path in Path("data/pets").iterdir() if path.is_file()}
        (photos / "cats" / "0.png").write_text("not an image")
        row = "{source: image_folder, path: photos, image_size: 8, test_fraction: 0.34}"
        assert lplgrad("prepare", "--settings", row, "--output", "data/pets")[0] == 1
        after = {path.name: path.read_bytes() for path in Path("data/pets").iterdir() if path.is_file()}
        assert after.keys() - before.keys() == {"unreadable.tsv"}
        assert {name: after[name] for name in before} == before
        assert not (Path("data/pets") / ".new").exists()
        assert "(other names or sizes)" in problem(), "the change is still noticed"

    def test_a_folder_that_cannot_be_read_is_named(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prepare(lplgrad, photos)

        def unreadable(folder: Path, onerror: Callable[[OSError], None], **_: object) -> list[object]:
            onerror(PermissionError(13, "Permission denied", str(folder / "cats")))
            return []

        monkeypatch.setattr("os.walk", unreadable)
        with pytest.raises(UserError, match=r"datasets\.pets: .*photos/cats: Permission denied"):
            problem()

    @pytest.mark.parametrize("text", ["{}", '{"files": "a", "names_and_sizes": 1, "times": 2}'])
    def test_a_broken_listing_is_refused(
        self, photos: Path, lplgrad: Callable[..., tuple[int, str]], text: str
    ) -> None:
        prepare(lplgrad, photos)
        Path("data/pets/originals.json").write_text(text)
        with pytest.raises(UserError, match=r"originals\.json: not a listing of files; delete it"):
            problem()

    def test_a_listing_does_not_depend_on_the_order_of_the_file_system(
        self, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (photos / "dogs" / "more").mkdir()
        Image.new("L", (8, 8)).save(photos / "dogs" / "more" / "x.png")
        known, walk = listing(photos), os.walk

        def backwards(folder: Path, **options: Any) -> Iterator[tuple[str, list[str], list[str]]]:
            for place, folders, files in walk(folder, **options):
                folders.sort(reverse=True)
                files.sort(reverse=True)
                yield place, folders, files

        monkeypatch.setattr("os.walk", backwards)
        assert listing(photos) == known

    def test_a_listing_does_not_follow_links_in_circles(self, tmp_path: Path, photos: Path) -> None:
        (photos / "cats" / "again").symlink_to(photos)
        (photos / "dogs" / "nowhere.png").symlink_to(photos / "gone.png")
        assert listing(photos)["files"] == 13
        write_json(tmp_path / "known.json", listing(photos))
        assert change(tmp_path / "known.json", photos) is None
