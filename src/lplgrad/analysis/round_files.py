"""Read the files of a round for tables and figures. UserError: a file is cut off, foreign or not of the round."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from lplgrad.datasets.prepared.arrays import open_array
from lplgrad.machine.errors import UserError
from lplgrad.rounds.files import SCORE_COLUMNS, TEST_SCORE_COLUMNS, read_rows

AGAIN = "delete it and run again"
OBSERVED_COLUMNS = ["index", "class", "loss", "entropy", "gradient_norm", "predicted_loss"]
CONFIDENCE_COLUMNS = ["index", "labeled", "confidence"]
WHOLE = {"index", "class", "labeled", "pick"}
# Cells and rows. int() and float() take more (1_000, full-width digits, signs, blanks), which no job ever writes.
FINITE = r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?"
NUMBER = rf"(?:{FINITE}|-?inf|nan)"
SCORE = re.compile(rf"[0-9]{{1,18}},(?:{FINITE})?,(?:{NUMBER},{NUMBER},[0-9]{{1,18}}|,,),(?:[1-9][0-9]{{0,17}})?")
TEST_SCORE = re.compile(rf"[0-9]{{1,18}},{NUMBER},{NUMBER}")
OBSERVED = re.compile(rf"[0-9]{{1,18}},[0-9]{{1,18}},{NUMBER},{NUMBER},{NUMBER},(?:{NUMBER})?")
CONFIDENCE = re.compile(rf"[0-9]{{1,18}},[01],{NUMBER}")


def read_scores(path: Path, candidates: npt.NDArray[np.int64], query_size: int, ranked: bool) -> pd.DataFrame:
    """Read ``scores.csv`` of a round: a row for each candidate, the columns ``SCORE_COLUMNS``; an empty cell is NaN,
    and an empty pick 0.

    Args:
        path: the file.
        candidates: those that the round drew, in their order; none if the trial had stopped.
        query_size: how many of them were chosen.
        ranked: whether they must be those of highest score, in this order.
    """
    frame = read_predictions(path)
    if frame["index"].tolist() != candidates.tolist():
        raise UserError(f"{path}: not the {len(candidates)} candidates of this round; {AGAIN}")
    if frame["predicted_class"].notna().nunique() > 1:
        raise UserError(f"{path}: not all candidates have a predicted class; {AGAIN}")
    if frame["score"].notna().nunique() > 1 or (ranked and frame["score"].isna().any()):
        raise UserError(f"{path}: not all candidates have a score; {AGAIN}")
    picks = frame["pick"].to_numpy()
    order = np.argsort(picks, kind="stable")[np.count_nonzero(picks == 0) :]
    size = min(query_size, len(frame))
    if picks[order].tolist() != list(range(1, size + 1)):
        raise UserError(f"{path}: the picks are not numbered from 1 to {size}; {AGAIN}")
    best = np.argsort(-frame["score"].to_numpy(np.float32), kind="stable")[:size]
    if ranked and not np.array_equal(best, order):
        raise UserError(f"{path}: the picks are not the {size} highest scores; {AGAIN}")
    return frame


def read_predictions(path: Path) -> pd.DataFrame:
    """Read ``scores.csv`` of a round as it is: a row for each candidate, the columns ``SCORE_COLUMNS``.

    An empty cell is NaN, and an empty pick 0.
    """
    return _frame(path, SCORE_COLUMNS, SCORE, "index, score, entropy, confidence, class and pick")


def read_test_scores(path: Path, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read scores and true losses of test examples from ``test_scores.csv``, each of shape (``count``,)."""
    frame = _frame(path, TEST_SCORE_COLUMNS, TEST_SCORE, "an index and two numbers")
    if len(frame) != count:
        raise UserError(f"{path}: scores of {len(frame)} test examples, not of {count}; {AGAIN}")
    return frame["score"].to_numpy(float), frame["loss"].to_numpy(float)


def read_observed(path: Path, count: int, labels: npt.NDArray[np.int64]) -> pd.DataFrame:
    """Read ``observed.csv``: a row for each of ``count`` test examples, the columns ``OBSERVED_COLUMNS``;
    predicted_loss is NaN without a module. ``labels`` are the classes of all test examples, shape (N,)."""
    frame = _frame(path, OBSERVED_COLUMNS, OBSERVED, "index, class, loss, entropy, gradient norm, predicted loss")
    indices = frame["index"].to_numpy(np.int64)
    if len(frame) != count or len(np.unique(indices)) < count:
        raise UserError(f"{path}: {len(np.unique(indices))} test examples, not {count}; {AGAIN}")
    if indices.max(initial=-1) >= len(labels) or not np.array_equal(labels[indices], frame["class"]):
        raise UserError(f"{path}: the classes are not those of the test examples; {AGAIN}")
    return frame


def read_confidence(path: Path, labeled: npt.NDArray[np.int64], unlabeled: int) -> pd.DataFrame:
    """Read ``confidence.csv``: a row for each example, the columns ``CONFIDENCE_COLUMNS``; first the labelled examples
    in their order, then as many others as were drawn."""
    frame = _frame(path, CONFIDENCE_COLUMNS, CONFIDENCE, "index, 0 or 1, confidence")
    flags = [1] * len(labeled) + [0] * unlabeled
    first = frame["index"].tolist()[: len(labeled)]
    if frame["labeled"].tolist() != flags or first != labeled.tolist() or frame["index"].duplicated().any():
        expected = f"{len(labeled)} labelled and {unlabeled} unlabelled examples of this round"
        raise UserError(f"{path}: not the {expected}; {AGAIN}")
    return frame


def _frame(path: Path, columns: list[str], row: re.Pattern[str], expected: str) -> pd.DataFrame:
    """Read numbers by column, those of ``WHOLE`` as integers; an empty cell is NaN, or 0 among integers."""
    rows = read_rows(path, columns, row, expected)
    if "predicted_loss" in columns and len({cells[-1] == "" for cells in rows}) > 1:
        raise UserError(f"{path}: not all examples have a predicted loss; {AGAIN}")
    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    return pd.DataFrame(
        {
            name: [int(cell or 0) for cell in column] if name in WHOLE else [float(cell or "nan") for cell in column]
            for name, column in zip(columns, cells, strict=True)
        }
    )


def read_array(path: Path, shape: tuple[int | None, ...]) -> npt.NDArray[np.float32]:
    """Read an array of finite numbers: logits or features of test examples. None in ``shape`` stands for any side."""
    path.open("rb").close()  # if the file is missing, the error says so
    try:
        array = open_array(path, mapped=False)
    except UserError:
        raise UserError(f"{path}: not a whole array; {AGAIN}") from None
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, side) for side, wanted in zip(array.shape, shape, strict=True)
    )
    if array.dtype != np.float32 or not fits:
        wanted = " x ".join("any" if side is None else str(side) for side in shape)
        raise UserError(f"{path}: holds {array.dtype} of shape {array.shape}, not float32 of {wanted}; {AGAIN}")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: a number in it is not finite; {AGAIN}")
    return array
