"""A representation of the pool is matched with its examples, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import DatasetArrays, Examples, checksums, open_dataset
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import UserError
from lplgrad.rounds.representation import representation_of
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


def write_names(data: DatasetArrays, lplgrad: Any) -> list[str]:
    status, log = lplgrad("files", "--data", data.folder, "--output", data.folder / "files.csv")
    assert status == 0, log
    return [f"train/{index:05d}" for index in range(POOL)]


def test_a_checksum_says_that_rows_have_the_order_of_the_pool(path: Path, data: DatasetArrays) -> None:
    found = representation_of(data, save(path, data))
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, features())


def test_rows_are_found_by_the_names_of_files(path: Path, data: DatasetArrays, lplgrad: Any) -> None:
    order = np.random.default_rng(1).permutation(POOL)
    names = np.array(write_names(data, lplgrad))[order]
    found = representation_of(data, save(path, data, features=features()[order], files=names, checksum=None))
    assert found is not None
    assert np.array_equal(found, features())


def test_names_may_cover_more_than_the_pool_only_if_features_do_not(
    path: Path, data: DatasetArrays, lplgrad: Any
) -> None:
    names = write_names(data, lplgrad)
    names[3] = "train/somewhere"
    with pytest.raises(UserError, match="does not list 'train/00003'"):
        representation_of(data, save(path, data, files=np.array(names), checksum=None))
    names[3] = names[4]
    with pytest.raises(UserError, match="lists 'train/00004' twice"):
        representation_of(data, save(path, data, files=np.array(names), checksum=None))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"checksum": None}, "does not say which example each row belongs to"),
        ({"checksum": "0" * 64}, "its checksum is not the inputs_sha256 of the training pool"),
        ({"checksum": np.array(["a", "b"])}, "its checksum is not"),
        ({"features": None}, "has no array named features"),
        ({"features": features(POOL - 1)}, f"of {POOL - 1} examples, but the pool of .* has {POOL}"),
        ({"features": np.zeros(POOL)}, r"floating-point numbers of shape \(N, D\), not float64 of shape \(60,\)"),
        ({"features": np.zeros((POOL, 2), dtype=int)}, "not int64"),
        ({"features": np.full((POOL, 2), np.nan)}, "row 0 of features holds a number that is not finite"),
        ({"features": np.full((POOL, 2), 1e300)}, "not finite in float32"),
    ],
)
def test_other_files_are_refused(path: Path, data: DatasetArrays, arrays: dict[str, Any], words: str) -> None:
    given = save(path, data, **arrays)
    with np.errstate(over="ignore"), pytest.raises(UserError, match=words):
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
