"""What a round left, read back for tables and figures: complete and of this round, or refused in one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from lplgrad.datasets.prepared.arrays import open_array
from lplgrad.machine.errors import UserError
from lplgrad.rounds.files import SCORE_COLUMNS, TEST_SCORE_COLUMNS, read_rows

OBSERVED_COLUMNS = ["index", "class", "loss", "entropy", "gradient_norm", "predicted_loss"]
CONFIDENCE_COLUMNS = ["index", "labeled", "confidence"]
# Cells and rows. int() and float() take more (1_000, full-width digits, signs, blanks), which no job ever writes.
FINITE = r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?"
NUMBER = rf"(?:{FINITE}|-?inf|nan)"
SCORE = re.compile(rf"[0-9]{{1,18}},{FINITE},(?:{NUMBER},{NUMBER},[0-9]{{1,18}}|,,),[01]")
TEST_SCORE = re.compile(rf"[0-9]{{1,18}},{NUMBER},{NUMBER}")
OBSERVED = re.compile(rf"[0-9]{{1,18}},[0-9]{{1,18}},{NUMBER},{NUMBER},{NUMBER},(?:{NUMBER})?")
CONFIDENCE = re.compile(rf"[0-9]{{1,18}},[01],{NUMBER}")


def read_scores(path: Path, candidates: npt.NDArray[np.int64], query_size: int) -> pd.DataFrame:
    """Read the scores of a round's candidates.

    Args:
        path: ``scores.csv`` of the round.
        candidates: those that the round drew, in their order; none, if the trial had stopped.
        query_size: how many of them were chosen.

    Returns:
        A row for each candidate, the columns ``SCORE_COLUMNS``. What the table leaves empty is NaN.

    Raises:
        UserError: the file is not such a table, or not of these candidates, or the chosen are not those of highest
            score.
    """
    rows = read_rows(path, SCORE_COLUMNS, SCORE, "index, score, entropy, confidence, class and 0 or 1")
    frame = _frame(rows, SCORE_COLUMNS)
    if frame["index"].tolist() != candidates.tolist():
        raise UserError(f"{path}: not the {len(candidates)} candidates of this round; delete it and run again")
    if frame["predicted_class"].notna().nunique() > 1:
        raise UserError(f"{path}: not all candidates have a predicted class; delete it and run again")
    best = np.argsort(-frame["score"].to_numpy(np.float32), kind="stable")[:query_size]
    if not np.array_equal(np.sort(best), np.flatnonzero(frame["selected"])):
        raise UserError(f"{path}: not the {len(best)} highest scores are selected; delete it and run again")
    return frame


def read_test_scores(path: Path, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read scores and true losses of test images.

    Args:
        path: ``test_scores.csv`` of the round.
        count: how many images were drawn.

    Returns:
        Scores and losses, each of shape (``count``,), in the order of the file.

    Raises:
        UserError: the file is not such a table, or not of so many images.
    """
    rows = read_rows(path, TEST_SCORE_COLUMNS, TEST_SCORE, "an index and two numbers")
    if len(rows) != count:
        raise UserError(f"{path}: scores of {len(rows)} test images, not of {count}; delete it and run again")
    values = np.array([[float(cell) for cell in row[1:]] for row in rows]).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def read_observed(path: Path, count: int, labels: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Read what ``lplgrad observe`` wrote of test images.

    Args:
        path: ``observed.csv``.
        count: how many images were drawn.
        labels: classes of all test images, shape (N,).

    Returns:
        A row for each image, the columns ``OBSERVED_COLUMNS``; predicted_loss is NaN without a module.

    Raises:
        UserError: the file is not such a table, not of so many images, or not of these.
    """
    rows = read_rows(path, OBSERVED_COLUMNS, OBSERVED, "index, class, loss, entropy, gradient norm, predicted loss")
    frame = _frame(rows, OBSERVED_COLUMNS)
    indices = frame["index"].to_numpy(np.int64)
    if len(frame) != count or len(np.unique(indices)) < count:
        raise UserError(f"{path}: {len(np.unique(indices))} test images, not {count}; delete it and run again")
    if indices.max(initial=-1) >= len(labels) or not np.array_equal(labels[indices], frame["class"]):
        raise UserError(f"{path}: the classes are not those of the test images; delete it and run again")
    if len({row[-1] == "" for row in rows}) > 1:
        raise UserError(f"{path}: not all images have a predicted loss; delete it and run again")
    return frame


def read_confidence(path: Path, labeled: npt.NDArray[np.int64], unlabeled: int) -> pd.DataFrame:
    """Read the confidence of a round's model in training images.

    Args:
        path: what ``lplgrad observe`` wrote.
        labeled: the labelled images, in their order; they come first.
        unlabeled: how many unlabelled images were drawn.

    Returns:
        A row for each image, the columns ``CONFIDENCE_COLUMNS``.

    Raises:
        UserError: the file is not such a table, or not of these images.
    """
    frame = _frame(read_rows(path, CONFIDENCE_COLUMNS, CONFIDENCE, "index, 0 or 1, confidence"), CONFIDENCE_COLUMNS)
    flags = [1] * len(labeled) + [0] * unlabeled
    first = frame["index"].tolist()[: len(labeled)]
    if frame["labeled"].tolist() != flags or first != labeled.tolist() or frame["index"].duplicated().any():
        told = f"{len(labeled)} labelled and {unlabeled} unlabelled images of this round"
        raise UserError(f"{path}: not the {told}; delete it and run again")
    return frame


def _frame(rows: list[list[str]], columns: list[str]) -> pd.DataFrame:
    """Numbers by column, whole ones wherever all of a column are; an empty cell is NaN."""
    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    whole = {"index", "class", "labeled", "selected"}
    return pd.DataFrame(
        {
            name: [int(cell) for cell in column] if name in whole else [float(cell or "nan") for cell in column]
            for name, column in zip(columns, cells, strict=True)
        }
    )


def read_array(path: Path, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """Read an array of finite numbers: logits of test images, or their features.

    Args:
        path: what ``numpy.save`` wrote.
        shape: what its shape must be; None for a side of any length.

    Raises:
        UserError: the file is cut off or foreign, of another shape, or a number is not finite.
    """
    path.open("rb").close()  # a file that is missing is told as such
    try:
        array = open_array(path, mapped=False)
    except UserError:
        raise UserError(f"{path}: not a whole array; delete it and run again") from None
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, side) for side, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.float32 or not fits:
        told = " x ".join("any" if side is None else str(side) for side in shape)
        raise UserError(
            f"{path}: holds {array.dtype} of shape {array.shape}, not float32 of {told}; delete it and run again"
        )
    if not np.isfinite(array).all():
        raise UserError(f"{path}: a number in it is not finite; delete it and run again")
    return array
