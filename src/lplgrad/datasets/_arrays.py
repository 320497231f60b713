"""Sources of arrays in the user's own files: .npz, and for vectors .csv."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from lplgrad.datasets import Prepared, Size
from lplgrad.datasets._split import stratified_split
from lplgrad.datasets.prepared.arrays import Examples
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import file_digest
from lplgrad.study.validation import Count, Settings, wrong

Array = npt.NDArray[Any]


class FileOptions(Settings):
    """Where the arrays are, and how they are split.

    Attributes:
        path: the file; ``~`` is the home folder.
        test_examples: how many examples are held out if the file has no test set.
        test_fraction: the same as a fraction of all examples; give at most one of the two. The default is a fifth.
        split_seed: the seed of that draw, which keeps the classes in proportion.
    """

    path: Annotated[str, Field(min_length=1)]
    test_examples: Count | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    split_seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.test_examples is not None and self.test_fraction is not None:
            raise wrong("give test_examples or test_fraction, not both", "test_fraction")
        return self


def prepared(options: FileOptions, train: tuple[Array, Array], test: tuple[Array, Array] | None, axes: str) -> Prepared:
    """Make a data set of inputs and class names, each of shape (N, ...) and (N,); without a test set, draw one.

    Raises:
        UserError: the arrays do not fit each other, or a number is not one.
    """
    path = Path(options.path).expanduser()
    parts = [train] if test is None else [train, test]
    for name, (inputs, names) in zip(("", "_test"), parts, strict=False):
        _check(path, name, inputs, names, axes)
    if test is not None and train[0].shape[1:] != test[0].shape[1:]:
        raise UserError(f"{path}: X has the shape {train[0].shape}, which does not fit X_test of {test[0].shape}")
    every = np.concatenate([names for _, names in parts])
    values, codes = np.unique(every, return_inverse=True)  # numbers in their order, text by code points
    classes, codes = [str(value) for value in values], codes.astype(np.int64)
    provenance = {"from": path.name, "sha256": file_digest(path)}
    if test is not None:
        count = len(train[1])
        both = [Examples(_floats(path, inputs), codes[part]) for (inputs, _), part in zip(
            parts, (slice(None, count), slice(count, None)), strict=True)]  # fmt: skip
        return Prepared(both[0], both[1], classes, provenance)
    inputs = _floats(path, train[0])
    held_out = options.test_examples or round((options.test_fraction or 0.2) * len(codes))
    key = "test_examples" if options.test_examples else "test_fraction"
    drawn = stratified_split(codes, classes, held_out, options.split_seed, key)
    pool, rest = (Examples(inputs[part], codes[part]) for part in drawn)
    return Prepared(pool, rest, classes, provenance)


def read_archive(path: Path) -> dict[str, Array]:
    """Read the arrays in a file that ``numpy.savez`` wrote, by name.

    Raises:
        UserError: the file is no such archive.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, zipfile.BadZipFile, EOFError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: not an archive of arrays that numpy.savez wrote ({error})") from None


def read_npz(path: Path) -> tuple[tuple[Array, Array], tuple[Array, Array] | None]:
    """Read X and y, and X_test and y_test if there are any.

    Raises:
        UserError: the file is no such archive.
    """
    arrays = read_archive(path)
    missing = [name for name in ("X", "y") if name not in arrays]
    if missing:
        raise UserError(f"{path}: has no array {missing[0]} (it has {', '.join(sorted(arrays)) or 'none'})")
    if ("X_test" in arrays) != ("y_test" in arrays):
        raise UserError(f"{path}: has only one of X_test and y_test")
    return (arrays["X"], arrays["y"]), (arrays["X_test"], arrays["y_test"]) if "X_test" in arrays else None


def unavailable(options: FileOptions, downloads: Path) -> str | None:
    """Return the missing path, with what to do."""
    path = Path(options.path).expanduser()
    return None if path.is_file() else f"{path} does not exist; place the file there"


def size_of(prepare: Callable[[Any, Path], Prepared], options: FileOptions, downloads: Path) -> Size | None:
    """Return the size of the arrays in the file, which ``prepare`` reads, if it is there."""
    if not Path(options.path).expanduser().is_file():
        return None
    found = prepare(options, downloads)
    assert isinstance(found.train, Examples)
    assert isinstance(found.test, Examples)
    shape = found.train.inputs.shape[1:]
    return Size(shape, len(found.classes), len(found.train.inputs), len(found.test.inputs))


def original(options: FileOptions, downloads: Path) -> Path:
    """Return the user's file."""
    return Path(options.path).expanduser()


def _check(path: Path, suffix: str, inputs: Array, names: Array, axes: str) -> None:
    if inputs.ndim != len(axes.split(",")) or 0 in inputs.shape or inputs.dtype.kind not in "fiub":
        shape = f"({axes}), not {inputs.dtype} of {inputs.shape}"
        raise UserError(f"{path}: X{suffix} must be numbers of shape {shape}")
    if names.shape != inputs.shape[:1] or names.dtype.kind not in "iuUb":
        raise UserError(
            f"{path}: y{suffix} must be whole numbers or text of shape ({len(inputs)},), one for each row of X{suffix},"
            f" not {names.dtype} of {names.shape}"
        )


def _floats(path: Path, inputs: Array) -> npt.NDArray[np.float32]:
    """Convert inputs to float32. Raise UserError for numbers that do not survive it."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = inputs.astype(np.float32)
        channels = inputs.reshape(-1, inputs.shape[-1])
        spread = channels.max(axis=0).astype(np.float64) - channels.min(axis=0).astype(np.float64)
        step = np.spacing(np.abs(channels).max(axis=0).astype(np.float32)).astype(np.float64)
    flat = np.flatnonzero((spread > 0) & (spread < 256 * step))
    if len(flat):
        raise UserError(
            f"{path}: the numbers of column {flat[0]} (from 0) differ by {spread[flat[0]]:g}, which float32 cannot "
            "tell apart that far from 0; subtract their mean"
        )
    bad = np.flatnonzero(~np.isfinite(found).reshape(len(found), -1).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: row {bad[0]} has a number that is missing, infinite or too large for float32")
    return found
