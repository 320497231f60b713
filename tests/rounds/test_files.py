"""Files of a round and of a data set: written whole or not at all, and read back only if they are whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lplgrad.acquisition import Choice
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import DatasetArrays, Examples, open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import _host, read_json, replacing, write_json, write_text
from lplgrad.rounds.files import read_labeled, write_labeled, write_scores
from lplgrad.rounds.pool import LabeledSet


class TestReplacing:
    def test_a_failing_write_leaves_what_was_there(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_text(path, "before")

        def fail() -> None:
            with replacing(path) as file:
                file.write(b"half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert path.read_text() == "before"
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    def test_what_a_killed_process_left_is_removed_by_the_next(self, tmp_path: Path) -> None:
        dead = subprocess.Popen(["true"])
        dead.wait()
        left, writing = tmp_path / f".file.{_host()}.{dead.pid}.tmp", tmp_path / f".file.{_host()}.{os.getppid()}.tmp"
        other = tmp_path / f".file.csv.{_host()}.{dead.pid}.tmp"
        elsewhere = tmp_path / f".file.elsewhere.{dead.pid}.tmp"
        for path in (left, writing, other, elsewhere):
            path.write_text("half")
        write_text(tmp_path / "file", "text")
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "file", writing, other, elsewhere])

    def test_an_error_of_the_system_names_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_text(tmp_path / "file", "text")
        assert caught.value.filename == str(tmp_path / "file")
        assert not list(tmp_path.iterdir())

    def test_a_read_only_disk_names_the_file_that_was_wanted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On one, the removal of a file that is not there fails too, which must not hide what failed first."""

        def refused(path: Path, *arguments: object, **options: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(Path, "open", refused)
        monkeypatch.setattr(Path, "unlink", refused)
        with pytest.raises(OSError, match="Read-only file system") as caught:
            write_text(tmp_path / "file", "text")
        assert caught.value.filename == str(tmp_path / "file")

    def test_a_directory_in_the_way_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is a folder, but a file must be written here"):
            write_text(tmp_path, "text")

    def test_json_refuses_what_is_not_json(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="JSON"):
            write_json(tmp_path / "file", {"x": float("nan")})
        assert not list(tmp_path.iterdir())
        for text in ("", "{", "[1]", '{"x": '):
            (tmp_path / "broken").write_text(text)
            with pytest.raises(UserError, match="broken"):
                read_json(tmp_path / "broken")


LABELED = LabeledSet(np.array([4, 7, 1]), np.array([1, 1, 2]), np.array([2, 0, -1]))


class TestLabeled:
    def test_comes_back(self, tmp_path: Path) -> None:
        write_labeled(tmp_path / "labeled.csv", LABELED)
        assert (tmp_path / "labeled.csv").read_text() == "index,round,label\n4,1,2\n7,1,0\n1,2,-1\n"
        back = read_labeled(tmp_path / "labeled.csv", examples=8, classes=3)
        assert back.indices.tolist() == [4, 7, 1]
        assert back.rounds.tolist() == [1, 1, 2]
        assert back.labels.tolist() == [2, 0, -1]

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "the first line must be index,round,label"),
            ("index,round\n1,1\n", "the first line must be index,round,label"),
            ("index;round;label\n1;1;1\n", "the first line must be index,round,label"),
            ("index,score,selected\n1,1,1\n", "the first line must be index,round,label"),
            ("index,round,label\n", "no labels in it"),
            ("index,round,label\n1,1,1\n2,", "cut off within its last line"),
            ("index,round,label\n1,1,1\n2,1\n", "line 3: expected 3 whole numbers (as label also -1: unknown)"),
            ("index,round,label\n1,1,1,1\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n1.0,1,1\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n-1,1,1\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n1,1,-2\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n1,1,\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n1_0,1,1\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n99999999999999999999,1,1\n", "line 2: expected 3 whole numbers"),
            ("index,round,label\n10,1,1\n", "index 10 is not in the training pool of 10 examples"),
            ("index,round,label\n3,1,1\n5,1,1\n3,2,1\n", "index 3 appears twice"),
            ("index,round,label\n3,0,1\n", "rounds count from 1"),
            ("index,round,label\n3,1,2\n5,1,3\n", "the label of index 5 is 3, but the data set has 3 classes"),
        ],
    )
    def test_what_is_wrong_is_told(self, tmp_path: Path, text: str, problem: str) -> None:
        path = tmp_path / "labeled.csv"
        path.write_text(text)
        with pytest.raises(UserError) as caught:
            read_labeled(path, examples=10, classes=3)
        assert str(caught.value).startswith(f"{path}: ")
        assert problem in str(caught.value)

    def test_a_binary_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "labeled.csv").write_bytes(b"\x89PNG\xff\x00")
        with pytest.raises(UserError, match="not a CSV file"):
            read_labeled(tmp_path / "labeled.csv", examples=10, classes=3)


@pytest.mark.parametrize("shuffled", [False, True])
def test_scores_come_back_to_the_bit_and_picks_in_their_order(tmp_path: Path, shuffled: bool) -> None:
    """The scores alone repeat a selection of the highest; a choice in another order keeps its order."""
    import pandas as pd

    scores = np.random.default_rng(0).normal(size=500).astype(np.float32)
    indices = np.arange(0, 1000, 2)
    picks = np.argsort(-scores, kind="stable")[:50]
    if shuffled:
        picks = np.random.default_rng(1).permutation(picks)
    choice = Choice(picks, scores)
    write_scores(tmp_path / "scores.csv", indices, choice, entropy=np.abs(scores), predicted=indices % 3)
    frame = pd.read_csv(tmp_path / "scores.csv")
    assert list(frame) == ["index", "score", "entropy", "confidence", "predicted_class", "pick"]
    assert np.array_equal(frame["score"].to_numpy(np.float32), scores)
    assert frame["confidence"].isna().all()
    chosen = frame[frame["pick"] > 0].sort_values("pick")
    assert chosen["pick"].tolist() == list(range(1, 51))
    assert chosen["index"].tolist() == indices[picks].tolist()
    again = frame.sort_values("score", ascending=False, kind="stable").head(50)["index"]
    assert (chosen["index"].tolist() == again.tolist()) == (not shuffled)
    assert set(chosen["index"]) == set(again)


def test_a_choice_without_scores_leaves_them_empty(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", np.array([3, 5, 8]), Choice(np.array([2, 0])))
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[1:] == ["3,,,,,2", "5,,,,,", "8,,,,,1"]


class TestDataset:
    def test_comes_back(self, data: DatasetArrays) -> None:
        assert data.splits["train"].inputs.shape == (60, 8, 8, 1)
        assert isinstance(data.splits["train"].inputs, np.memmap)
        assert data.classes == ["class0", "class1", "class2", "class3"]
        described = json.loads((data.folder / "dataset.json").read_text())
        assert described["splits"]["test"]["per_class"] == {f"class{k}": 5 for k in range(4)}

    def test_channel_statistics(self, tmp_path: Path) -> None:
        def prepared(images: npt.NDArray[np.uint8]) -> DatasetArrays:
            part = Examples(images, np.arange(len(images)) % 2)
            return write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))

        images = np.random.default_rng(0).integers(0, 256, size=(3000, 4, 5, 3)).astype(np.uint8)
        data = prepared(images)
        np.testing.assert_allclose(data.mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(data.std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)
        black = prepared(np.zeros((5, 2, 2, 1), dtype=np.uint8))
        assert (black.mean, black.std) == ([0.0], [1.0])

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda folder: (folder / "dataset.json").unlink(), "no prepared data set here"),
            (lambda folder: (folder / "dataset.json").write_text("{}"), "not the description of a data set"),
            (lambda folder: (folder / "dataset.json").write_text('{"classes": '), "not JSON, or cut off"),
            (
                lambda folder: (folder / "dataset.json").write_text(
                    (folder / "dataset.json").read_text().replace("labels_sha256", "sha256")
                ),
                r"dataset\.json: not the description of a data set",
            ),
            (lambda folder: (folder / "train_inputs.npy").unlink(), "train_inputs.npy: missing"),
            (lambda folder: os.truncate(folder / "train_inputs.npy", 2000), "not a whole array"),
            (lambda folder: os.truncate(folder / "test_labels.npy", 3), "not a whole array"),
            (lambda folder: np.save(folder / "test_inputs.npy", np.zeros(3)), "not those that dataset.json describes"),
            (lambda folder: np.save(folder / "test_labels.npy", np.full(20, 9)), "a label is not among the 4 classes"),
            (
                lambda folder: np.save(folder / "train_labels.npy", np.array([{}], dtype=object), allow_pickle=True),
                "not a whole array",
            ),
        ],
    )
    def test_what_is_wrong_is_told(self, data: DatasetArrays, damage: Callable[[Path], object], problem: str) -> None:
        damage(data.folder)
        with pytest.raises(UserError, match=problem):
            open_dataset(data.folder)

    def test_a_source_may_not_deliver_nonsense(self, tmp_path: Path) -> None:
        def prepared(images: int = 4, labels: tuple[int, ...] = (0, 1, 0, 1), classes: int = 2) -> Prepared:
            train = Examples(np.zeros((images, 2, 2, 3), dtype=np.uint8), np.array(labels, dtype=np.int64))
            return Prepared(train, train, [str(k) for k in range(classes)], {})

        for bad, problem in (
            (prepared(labels=(0, 1, 2, 1)), "one class from 0 to 1 per image"),
            (prepared(images=3), "3 train examples have 4 labels"),
            (prepared(labels=(0, 0, 0, 0)), "two classes or more, each with images"),
            (prepared(labels=(0, 0, 0, 0), classes=1), "two classes or more, each with images"),
        ):
            with pytest.raises(UserError, match=problem):
                write_dataset(tmp_path / "data", bad)
            assert not (tmp_path / "data" / "dataset.json").exists()
