"""Vectors in a file: a table (.csv), or arrays (.npz) such as embeddings of a foundation model.

An .npz file has X (N, D) and y (N,), and X_test and y_test if it has a test set. A .csv file has a header, a column of
class names and columns of numbers.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from lplgrad.datasets import Prepared, Source
from lplgrad.datasets._arrays import Array, FileOptions, original, prepared, read_npz, size_of, unavailable
from lplgrad.machine.errors import UserError


class Options(FileOptions):
    """Where the vectors are, and how they are split.

    Attributes:
        path, test_examples, test_fraction, split_seed: see FileOptions.
        label: the column of class names in a .csv file.
    """

    label: Annotated[str, Field(min_length=1)] = "label"


def prepare(options: Options, downloads: Path) -> Prepared:
    """Read the file and split it."""
    path = Path(options.path).expanduser()
    if path.suffix == ".csv":
        return prepared(options, _read_csv(path, options.label), None, "N, D")
    train, test = read_npz(path)
    return prepared(options, train, test, "N, D")


def _read_csv(path: Path, label: str) -> tuple[Array, Array]:
    import pandas as pd  # slow, and the Snakefile imports this module

    try:
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
            # Without index_col the first field of a row with one field more than the header would be an index.
            frame = pd.read_csv(path, dtype={label: str}, keep_default_na=False, na_values=[""], index_col=False)
    except (ValueError, pd.errors.ParserWarning) as error:  # pandas' errors are kinds of the first
        raise UserError(f"{path}: not a table ({error})") from None
    if label not in frame:
        raise UserError(f"{path}: has no column {label!r}; the option label names the column of classes")
    names, columns = frame[label], frame.drop(columns=label)
    if names.isna().any():
        raise UserError(f"{path}: line {int(names.isna().argmax()) + 2} has no {label}")
    if str(columns.columns[0]).startswith("Unnamed:"):
        raise UserError(f"{path}: the first column has no name; is it the number of the row? Remove it, or name it")
    for name, column in columns.items():
        if not pd.api.types.is_numeric_dtype(column):
            raise UserError(f"{path}: column {name!r} is not all numbers; remove it, or write it as numbers")
    return columns.to_numpy(dtype="float64"), names.to_numpy(dtype=str)


SOURCE = Source(prepare, Options, "vector", unavailable=unavailable, originals=original, size=partial(size_of, prepare))
