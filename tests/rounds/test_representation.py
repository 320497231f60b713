"""A representation of the pool is matched with its examples, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from lplgrad import acquisition
from lplgrad.acquisition import Candidates
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import DatasetArrays, Examples, checksums, open_array, open_dataset
from lplgrad.datasets.prepared.file_names import positions
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest
from lplgrad.rounds.files import read_labeled
from lplgrad.rounds.oracle import pool_labels
from lplgrad.rounds.pool import Indices, draw_candidates
from lplgrad.rounds.representation import representation_of
from tests.by_hand import first_round, query
from tests.conftest import CLASSES, POOL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "features.npz"


def features(count: int = POOL) -> np.ndarray[Any, Any]:
    return np.arange(count * 3, dtype=np.float16).reshape(count, 3)


def save(path: Path, data: DatasetArrays, **arrays: Any) -> str:
    given: dict[str, Any] = {"features": features(), "checksum": checksums(data.folder)["train_inputs"]}
    given |= arrays
    np.savez(path, **{name: value for name, value in given.items() if value is not None})
    return str(path)


def write_names(data: DatasetArrays) -> list[str]:
    """Write ``files.csv`` as for a folder of images, and return the names of the pool."""
    lines, names = ["index,split,path,class"], []
    for split in ("train", "test"):
        labels = open_array(data.folder / f"{split}_labels.npy", mapped=False)
        for index, label in enumerate(labels):
            names.append(f"{split}/{data.classes[label]}/{index:04}.png")
            lines.append(f"{index},{split},{names[-1]},{data.classes[label]}")
    (data.folder / "files.csv").write_text("\n".join(lines) + "\n")
    return names[:POOL]


def test_a_checksum_says_that_rows_have_the_order_of_the_pool(path: Path, data: DatasetArrays) -> None:
    found = representation_of(data, save(path, data))
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, features())


def test_float64_keeps_its_digits(path: Path, data: DatasetArrays) -> None:
    given = 1e9 + np.random.default_rng(1).random((POOL, 2))
    found = representation_of(data, save(path, data, features=given))
    assert found is not None
    assert np.array_equal(found, given)


def test_rows_are_found_by_the_names_of_files(path: Path, data: DatasetArrays) -> None:
    order = np.random.default_rng(1).permutation(POOL)
    names = np.array(write_names(data))[order]
    for checksum in (None, checksums(data.folder)["train_inputs"]):
        found = representation_of(data, save(path, data, features=features()[order], files=names, checksum=checksum))
        assert found is not None
        assert np.array_equal(found, features())


def test_names_of_another_pool_are_refused(path: Path, data: DatasetArrays) -> None:
    names = write_names(data)
    missing = [*names[:3], "train/somewhere", *names[4:]]
    with pytest.raises(UserError, match=f"does not list {names[3]} of"):
        representation_of(data, save(path, data, files=np.array(missing), checksum=None))
    twice = [*names[:3], names[4], *names[4:]]
    with pytest.raises(UserError, match=f"lists {names[4]} twice"):
        representation_of(data, save(path, data, files=np.array(twice), checksum=None))
    with pytest.raises(UserError, match="its checksum is not"):
        representation_of(data, save(path, data, files=np.array(names), checksum="0" * 64))
    for files in (np.array(names[:-1]), np.array([*names, "one more"]), np.array([names]), np.array(names, dtype="S")):
        with pytest.raises(UserError, match=r"files must be one text for each row of features, not .* of shape"):
            representation_of(data, save(path, data, files=files, checksum=None))


def test_positions_are_no_names(path: Path, data: DatasetArrays, lplgrad: Any) -> None:
    """Another pool has the same positions, so they prove no more than the number of rows."""
    status, log = lplgrad("files", "--data", data.folder, "--output", data.folder / "files.csv")
    assert status == 0, log
    with pytest.raises(UserError, match="have no files, and their positions do not tell one pool from another"):
        representation_of(data, save(path, data, files=np.array(positions("train", POOL)), checksum=None))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"checksum": None}, "does not say which example each row belongs to"),
        ({"checksum": "0" * 64}, "its checksum is not the inputs_sha256 of the training pool"),
        ({"checksum": np.array(["a", "b"])}, "checksum must be one text"),
        ({"features": None}, "has no array named features"),
        ({"features": features(POOL - 1)}, f"of {POOL - 1} examples, but the pool of .* has {POOL}"),
        ({"features": np.zeros(POOL)}, r"floating-point numbers of shape \(N, D\), not float64 of shape \(60,\)"),
        ({"features": np.zeros((POOL, 2), dtype=int)}, "not int64"),
        ({"features": np.full((POOL, 2), np.nan)}, "row 0 of features holds a number that is not finite"),
        (
            {"features": np.full((POOL, 2), np.inf, dtype=np.float16)},
            "row 0 of features holds a number that is not finite",
        ),
        ({"checksum": np.array(b"a")}, "checksum must be one text, not [|]S1 of shape"),
        ({"checksum": np.array([], dtype=str)}, "checksum must be one text"),
    ],
)
def test_other_files_are_refused(path: Path, data: DatasetArrays, arrays: dict[str, Any], words: str) -> None:
    given = save(path, data, **arrays)
    with pytest.raises(UserError, match=words):
        representation_of(data, given)


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused(path: Path, data: DatasetArrays, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match="not an archive of arrays"):
        representation_of(data, str(path))


def test_a_single_array_and_a_missing_file_are_refused(tmp_path: Path, data: DatasetArrays) -> None:
    np.save(tmp_path / "features.npy", features())
    with pytest.raises(UserError, match="not an archive of arrays"):
        representation_of(data, str(tmp_path / "features.npy"))
    with pytest.raises(UserError, match="no such file"):
        representation_of(data, str(tmp_path / "nowhere.npz"))


def test_no_object_of_a_file_is_unpickled(path: Path, data: DatasetArrays) -> None:
    np.savez(path, features=np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not an archive of arrays"):
        representation_of(data, str(path))


def test_vectors_represent_themselves_and_images_do_not(tmp_path: Path, data: DatasetArrays) -> None:
    assert representation_of(data, None) is None
    vectors = np.random.default_rng(1).normal(size=(12, 5)).astype(np.float32)
    labels = np.arange(12) % CLASSES
    classes = [str(one) for one in range(CLASSES)]
    write_dataset(
        tmp_path / "vectors",
        Prepared(Examples(vectors, labels), Examples(vectors, labels), classes, {}),
        modality="vector",
    )
    found = representation_of(open_dataset(tmp_path / "vectors"), None)
    assert found is not None
    assert np.array_equal(found, vectors)


class TestCommands:
    """What reads a file of features: the choice of the first labels, and queries."""

    @pytest.fixture
    def given(self, path: Path, data: DatasetArrays) -> npt.NDArray[np.float32]:
        found = np.random.default_rng(3).standard_normal((POOL, 4)).astype(np.float32)
        save(path, data, features=found)
        return found

    @staticmethod
    def chosen(
        name: str,
        features: npt.NDArray[np.float32],
        labeled: Indices,
        indices: Indices,
        seed: int,
        number: int,
        size: int,
    ) -> list[int]:
        """The choice from given features, sorted."""
        function = acquisition.registry.load(name)
        both = {"representation": indices, "labeled:representation": labeled}
        measured = {need: torch.from_numpy(features[positions]) for need, positions in both.items()}
        candidates = Candidates(indices, seed, number, size, measured, CLASSES)
        return sorted(indices[acquisition.choice_of(function, candidates, function.options()).picks].tolist())

    def start(self, lplgrad: Any, data: DatasetArrays, output: Path, *settings: str, seed: int = 1) -> tuple[int, str]:
        words = ["--settings", *settings] if settings else []
        found: tuple[int, str] = lplgrad(
            "start", "--data", data.folder, "--query-size", 6, "--seed", seed, "--output", output, *words
        )
        return found

    @pytest.mark.parametrize("seed", [1, 2])
    @pytest.mark.parametrize("name", ["max_herding", "typiclust", "probcover"])
    def test_first_labels_are_chosen(
        self, path: Path, data: DatasetArrays, lplgrad: Any, given: npt.NDArray[np.float32], name: str, seed: int
    ) -> None:
        output, nothing = path.with_name("labeled.csv"), np.empty(0, dtype=np.int64)
        status, log = self.start(lplgrad, data, output, f"acquisition={name}", f"features={path}", seed=seed)
        assert status == 0, log
        found = read_labeled(output, POOL, CLASSES)
        assert found.indices.tolist() == self.chosen(name, given, nothing, np.arange(POOL), seed, 0, 6)
        assert np.array_equal(found.labels, pool_labels(data)[found.indices])
        assert set(found.rounds.tolist()) == {1}

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            (["acquisition=max_herding"], "max_herding needs a representation of the pool; name its file as features"),
            (["acquisition=entropy"], "'entropy' needs logits, and before round 1 there is no model"),
            (["acquisition=random"], "'random' compares no examples"),
            (["acquisition=max_herding", "options.width=0", "features=nowhere.npz"], "options: width"),
            (["acquisition=max_herding", "features=nowhere.npz"], "nowhere.npz: no such file"),
        ],
    )
    def test_what_cannot_choose_is_refused(
        self, path: Path, data: DatasetArrays, lplgrad: Any, settings: list[str], words: str
    ) -> None:
        output = path.with_name("labeled.csv")
        status, log = self.start(lplgrad, data, output, *settings)
        assert (status, words in log, output.exists()) == (1, True, False), log

    def test_a_stratified_draw_and_a_choice_are_refused(
        self, path: Path, data: DatasetArrays, lplgrad: Any, given: npt.NDArray[np.float32]
    ) -> None:
        common = ["--data", data.folder, "--query-size", 6, "--seed", 1, "--output", path.with_name("labeled.csv")]
        settings = ["--settings", "acquisition=max_herding", f"features={path}"]
        status, log = lplgrad("start", *common, "--draw", "stratified", *settings)
        assert (status, "--draw: stratified has no effect" in log) == (1, True)

    def test_a_query_compares_examples_by_the_file(
        self, path: Path, data: DatasetArrays, lplgrad: Any, given: npt.NDArray[np.float32]
    ) -> None:
        folder = path.parent
        first_round(lplgrad, folder)
        settings = "{acquisition: max_herding, query_size: 5, candidates: 30, features: FILE}"
        status, log = query(lplgrad, folder, settings.replace("FILE", str(path)), output="out")
        assert status == 0, log
        labeled = read_labeled(folder / "labeled.csv", POOL, CLASSES)
        bought = read_labeled(folder / "out" / "next_labeled.csv", POOL, CLASSES)
        indices = draw_candidates(POOL, labeled, 30, 1, 1)
        expected = self.chosen("max_herding", given, labeled.indices, indices, 1, 1, 5)
        assert bought.indices[bought.rounds == 2].tolist() == expected
        written = json.loads((folder / "out" / "query_settings.json").read_text())
        assert written["files"] == {str(path): file_digest(path)}
        status, log = query(lplgrad, folder, settings.replace(", features: FILE", ""), output="own")
        assert status == 0, log
        own = read_labeled(folder / "own" / "next_labeled.csv", POOL, CLASSES)
        assert own.indices[own.rounds == 2].tolist() != expected, "features of the model choose others"
