"""A preparation that was killed goes on where it was, with the same bytes, and never mixes two states of a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lplgrad.datasets.prepared import images
from lplgrad.machine.files import read_json
from tests.image_files import photos, save

Call = Callable[..., tuple[int, str]]
OPTIONS = {"image_size": 8, "test_fraction": 0.34}
NAMES = ("train_inputs.npy", "train_labels.npy", "test_inputs.npy", "test_labels.npy", "dataset.json", "originals.json")
KILLED = """
import os, signal, sys
from lplgrad.cli import main
from lplgrad.datasets.prepared import images
decode, images.SAVED_AFTER, left = images.decode, 2, [int(sys.argv.pop(1))]
def fatal(*arguments):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(*arguments)
images.decode = fatal
sys.exit(main(sys.argv[1:]))
"""


class Preparing:
    """Prepare ``photos`` as ``data``, and count the images that are decoded."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call) -> None:
        self.folder, self.output, self.lplgrad = photos(place / "photos"), place / "data", lplgrad
        self.decoded: list[str] = []
        self.killed_at: int | None = None
        decode = images.decode

        def counted(path: Path, *arguments: Any) -> Any:
            if len(self.decoded) == self.killed_at:
                raise KeyboardInterrupt
            self.decoded.append(path.name)
            return decode(path, *arguments)

        monkeypatch.setattr("lplgrad.datasets.prepared.images.decode", counted)
        monkeypatch.setattr("lplgrad.datasets.prepared.images.SAVED_AFTER", 2)

    def arguments(self, output: Path | None = None, **options: Any) -> list[str]:
        settings = json.dumps({"source": "image_folder", "path": str(self.folder), **OPTIONS, **options})
        return ["prepare", "--settings", settings, "--threads", "1", "--output", str(output or self.output)]

    def run(self, killed_at: int | None = None, output: Path | None = None, **options: Any) -> tuple[int, str]:
        self.decoded.clear()
        self.killed_at = killed_at
        status, said = self.lplgrad(*self.arguments(output, **options))
        assert killed_at is None or status == 130
        return status, said

    def undisturbed(self, **options: Any) -> dict[str, bytes]:
        other = self.output.with_name("undisturbed")
        shutil.rmtree(other, ignore_errors=True)
        assert self.run(output=other, **options)[0] == 0
        return content(other)


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in NAMES}


@pytest.fixture
def preparing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call) -> Preparing:
    monkeypatch.chdir(tmp_path)
    return Preparing(tmp_path, monkeypatch, lplgrad)


@pytest.mark.parametrize(("killed_at", "again"), [(0, 12), (5, 8), (8, 4), (11, 2)])
def test_an_interrupted_preparation_goes_on_with_the_same_bytes(
    preparing: Preparing, killed_at: int, again: int
) -> None:
    """The pool has 8 images and the test set 4."""
    preparing.run(killed_at)
    assert (preparing.output / ".new").exists()
    assert preparing.run()[0] == 0
    assert len(preparing.decoded) == again
    assert not (preparing.output / ".new").exists()
    assert content(preparing.output) == preparing.undisturbed()
    assert (preparing.output / "provenance.json").read_bytes() == (
        preparing.output.with_name("undisturbed") / "provenance.json"
    ).read_bytes()


def test_it_can_be_interrupted_many_times(preparing: Preparing) -> None:
    for _ in range(4):
        preparing.run(3)
    status, said = preparing.run()
    assert status == 0
    assert "goes on after 8 of 8 train images, which are decoded already" in said
    assert len(preparing.decoded) == 4
    assert content(preparing.output) == preparing.undisturbed()


def test_a_process_that_is_killed_leaves_what_the_next_one_needs(preparing: Preparing) -> None:
    command = [sys.executable, "-c", KILLED, "7", *preparing.arguments()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert preparing.run()[0] == 0
    assert len(preparing.decoded) == 6
    assert content(preparing.output) == preparing.undisturbed()


@pytest.mark.parametrize(
    "edit",
    [
        lambda folder: save(folder / "dog" / "0.jpg", seed=99),
        lambda folder: os.utime(folder / "dog" / "0.jpg"),
        lambda folder: save(folder / "dog" / "00.jpg", seed=99),
        lambda folder: (folder / "cat" / "0.png").rename(folder / "cat" / "9.png"),
    ],
)
def test_a_folder_that_changed_in_between_is_decoded_from_the_beginning(
    preparing: Preparing, edit: Callable[[Path], object]
) -> None:
    preparing.run(11)
    edit(preparing.folder)
    assert preparing.run()[0] == 0
    assert len(preparing.decoded) >= 12
    assert content(preparing.output) == preparing.undisturbed()


@pytest.mark.parametrize("options", [{"fit": "stretch"}, {"split_seed": 1}, {"image_size": 9}])
def test_other_settings_begin_from_the_beginning(preparing: Preparing, options: dict[str, Any]) -> None:
    preparing.run(11)
    assert preparing.run(**options)[0] == 0
    assert len(preparing.decoded) == 12
    assert content(preparing.output) == preparing.undisturbed(**options)


@pytest.mark.parametrize(
    "damage",
    [
        lambda staging: (staging / "progress.json").write_text('{"key": '),
        lambda staging: (staging / "progress.json").unlink(),
        lambda staging: (staging / "train_decoded.npy").unlink(),
        lambda staging: (staging / "train_decoded.npy").write_bytes(b"cut"),
        lambda staging: np.save(staging / "train_decoded.npy", np.zeros((8, 9, 9, 3), np.uint8)),
    ],
)
def test_a_damaged_folder_of_progress_is_not_used(preparing: Preparing, damage: Callable[[Path], object]) -> None:
    preparing.run(7)
    damage(preparing.output / ".new")
    assert preparing.run()[0] == 0
    assert len(preparing.decoded) == 12
    assert content(preparing.output) == preparing.undisturbed()


def test_unreadable_images_before_the_interruption_are_still_reported(preparing: Preparing) -> None:
    (preparing.folder / "cat" / "0.png").write_bytes(b"broken")
    (preparing.folder / "dog" / "5.jpg").write_bytes(b"broken")
    preparing.run(11)
    status, said = preparing.run()
    assert status == 1
    assert "error: 2 of 12 images cannot be read" in said
    assert len((preparing.output / "unreadable.tsv").read_text().splitlines()) == 2
    assert not (preparing.output / ".new").exists(), "the images must change anyway"


def test_kinds_of_numbers_before_the_interruption_still_count(preparing: Preparing) -> None:
    for path in preparing.folder.glob("cat/**/*.png"):
        Image.fromarray(np.full((8, 8), 9999, np.uint16)).save(path)
    preparing.run(11)
    assert "different kinds of numbers: 6 of 8-bit numbers and 6 of unsigned 16-bit numbers;" in preparing.run()[1]


class TestLeftOut:
    """Unreadable images that are left out on request."""

    @pytest.fixture
    def both(self, preparing: Preparing) -> Path:
        """Two splits of the same 12 images."""
        both = preparing.folder.with_name("both")
        for split in ("train", "test"):
            shutil.copytree(preparing.folder, both / split)
        preparing.folder = both
        return both

    def test_the_others_are_prepared_as_if_the_broken_ones_were_not_there(
        self, preparing: Preparing, both: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(OPTIONS, "test_fraction", None)
        monkeypatch.setattr("lplgrad.datasets.prepared.staging.BLOCK", 3)
        broken = [both / "train/cat/deep/er/3.png", both / "train/dog/5.jpg", both / "test/cat/0.png"]
        for path in broken:
            path.write_bytes(path.read_bytes()[:100])
        assert "3 of 24 images cannot be read, the first is" in preparing.run()[1]
        preparing.run(20, skip_unreadable=True)
        status, said = preparing.run(skip_unreadable=True)
        assert status == 0
        assert len(preparing.decoded) < 24
        output = preparing.output
        [warning] = [line for line in said.splitlines() if line.startswith("warning: ") and "cannot" in line]
        assert warning.startswith(
            f"warning: {output}: 3 of 24 images cannot be read and are left out, the first is {both}"
        )
        listed = [line.split("\t")[0] for line in (output / "unreadable.tsv").read_text().splitlines()]
        assert sorted(listed) == sorted(map(str, broken))
        assert read_json(output / "provenance.json")["unreadable"] == 3
        assert read_json(output / "dataset.json")["settings"]["skip_unreadable"] is True
        assert preparing.lplgrad("files", "--data", output, "--output", output / "files.csv")[0] == 0
        names = [line.split(",")[2] for line in (output / "files.csv").read_text().splitlines()[1:]]
        for path in broken:
            path.unlink()
        expected = preparing.undisturbed()
        found = content(output)
        assert {name: found[name] for name in NAMES[:4]} == {name: expected[name] for name in NAMES[:4]}
        left = sorted(str(path.relative_to(both)) for path in both.rglob("*.*g"))
        assert sorted(names) == left

    def test_a_class_that_loses_all_its_images_is_refused(
        self, preparing: Preparing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for path in preparing.folder.glob("dog/*.jpg"):
            path.write_bytes(b"broken")
        status, said = preparing.run(skip_unreadable=True)
        assert status == 1
        assert "each with images in the training pool" in said

    def test_a_disk_that_fails_to_read_loses_no_image(
        self, preparing: Preparing, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        decode = images.decode

        def failing(path: Path, *arguments: Any) -> Any:
            if path.name == "3.jpg":
                raise OSError(5, "Input/output error", str(path))
            return decode(path, *arguments)

        monkeypatch.setattr("lplgrad.datasets.prepared.images.decode", failing)
        status, said = preparing.run(skip_unreadable=True)
        assert status == 1
        assert "dog/3.jpg: Input/output error" in said
        assert not (preparing.output / "dataset.json").exists()

    def test_data_sets_without_the_option_do_not_record_it(self, preparing: Preparing) -> None:
        for arguments in (preparing.arguments(), preparing.arguments(skip_unreadable=False)):
            assert preparing.lplgrad(*arguments)[0] == 0
            assert "skip_unreadable" not in read_json(preparing.output / "dataset.json")["settings"]
            assert "skip_unreadable" not in read_json(preparing.output / "provenance.json")
