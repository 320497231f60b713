"""A representation of the training pool: numbers for each example, whose distances say how alike examples are.

It comes from a file or, for modalities whose examples are vectors, from the examples themselves. Unlike features of a
round's model it is the same in all rounds, and is there before the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lplgrad import modalities
from lplgrad.datasets._arrays import read_archive
from lplgrad.datasets.prepared.arrays import DatasetArrays, checksums
from lplgrad.datasets.prepared.file_names import positions, read_names
from lplgrad.machine.errors import UserError

HELP = "see docs/representations.md"
Features = npt.NDArray[np.floating[Any]]  # float32, or float64 if the file has it


def representation_of(data: DatasetArrays, path: str | None) -> Features | None:
    """Return the representation of a pool of N examples, shape (N, D); None if there is none.

    Args:
        data: the data set.
        path: of a file in NumPy's format .npz: ``features``, floating-point numbers of shape (N, D), and what says
            which example each row belongs to. That is either ``files``, the path of each example as in the data set's
            ``files.csv``, shape (N,), in any order, or ``checksum``, the ``inputs_sha256`` of the training pool in
            ``dataset.json``, if the rows have the order of the prepared pool.

    Raises:
        UserError: the file is not of this form, or is of another pool.
    """
    if path is not None:
        return _read(Path(path), data)
    modality = modalities.registry.load(data.modality)
    if modality.embedded:
        return modality.numbers(data.splits["train"].inputs).astype(np.float32)
    return None


def width_of(path: Path) -> int:
    """Return D of the representation in a file. Raise UserError as ``representation_of``."""
    return int(_arrays(path)["features"].shape[1])


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    arrays = read_archive(path)
    features = arrays.get("features")
    if features is None:
        raise UserError(f"{path}: has no array named features; {HELP}")
    if features.ndim != 2 or features.dtype.kind != "f" or 0 in features.shape:
        raise UserError(
            f"{path}: features must be floating-point numbers of shape (N, D), not {features.dtype} of shape "
            f"{features.shape}; {HELP}"
        )
    return arrays


def _read(path: Path, data: DatasetArrays) -> Features:
    arrays = _arrays(path)
    features, count = arrays["features"], len(data.splits["train"].inputs)
    if len(features) != count:
        raise UserError(f"{path}: has features of {len(features)} examples, but the pool of {data.folder} has {count}")
    # float64 stays, because float32 may not tell its rows apart.
    found: Features = features.astype(np.float32 if features.itemsize <= 4 else np.float64)
    if not np.isfinite(found).all():
        row = int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])
        raise UserError(f"{path}: row {row} of features holds a number that is not finite")
    if "files" not in arrays and "checksum" not in arrays:
        raise UserError(
            f"{path}: does not say which example each row belongs to, and a matching number of rows could be in "
            f"another order; add an array files or checksum; {HELP}"
        )
    checksum = arrays.get("checksum", np.array(checksums(data.folder)["train_inputs"]))
    if checksum.size != 1 or checksum.dtype.kind != "U":
        raise UserError(f"{path}: checksum must be one text, not {checksum.dtype} of shape {checksum.shape}; {HELP}")
    if checksum.item() != checksums(data.folder)["train_inputs"]:
        raise UserError(
            f"{path}: its checksum is not the inputs_sha256 of the training pool in {data.folder / 'dataset.json'}, so "
            "its features are of other examples or of another order; compute them from this pool"
        )
    return found[_rows(path, arrays["files"], data)] if "files" in arrays else found


def _rows(path: Path, files: npt.NDArray[Any], data: DatasetArrays) -> npt.NDArray[np.int64]:
    """Return the row of each example of the pool."""
    names = read_names(data)["train"]
    if names == positions("train", len(names)):
        raise UserError(
            f"{path}: the examples of {data.folder} have no files, and their positions do not tell one pool from "
            f"another; write checksum instead of files; {HELP}"
        )
    if files.shape != (len(names),) or files.dtype.kind != "U":
        raise UserError(
            f"{path}: files must be one text for each row of features, not {files.dtype} of shape {files.shape}"
        )
    given = files.tolist()
    rows = {name: row for row, name in enumerate(given)}
    if len(rows) < len(given):
        twice = next(name for row, name in enumerate(given) if rows[name] != row)
        raise UserError(f"{path}: files lists {twice} twice; name each example once")
    for name in names:
        if name not in rows:
            raise UserError(f"{path}: files does not list {name} of the training pool; name all as in files.csv")
    return np.array([rows[name] for name in names], dtype=np.int64)
