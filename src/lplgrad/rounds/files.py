"""The files of a round: labels, scores, logits and versions. Readers refuse a truncated or foreign file in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lplgrad.acquisition import Choice
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json, remove, replacing, write_text
from lplgrad.rounds.pool import LabeledSet
from lplgrad.rounds.settings import RERUN, TRAINING

LABELED_COLUMNS = ["index", "round", "label"]
SCORE_COLUMNS = ["index", "score", "entropy", "confidence", "predicted_class", "pick"]
TEST_SCORE_COLUMNS = ["index", "score", "loss"]
# int() accepts more: 1_000, full-width digits, signs, blanks.
LABEL = re.compile(r"[0-9]{1,18},[0-9]{1,18},(?:-1|[0-9]{1,18})")
VERSION = "[0-9][0-9A-Za-z.+_-]*"
PROGRESS = "progress.safetensors"  # of a training; see ``resume``
QUERY_PROGRESS = "query_progress.safetensors"  # of a learner that a query trains


def forget_progress(folder: Path, name: str = PROGRESS) -> None:
    """Remove the progress file of a job whose results a later job has read."""
    remove(folder / name)


def write_labeled(path: Path, labeled: LabeledSet) -> None:
    """Write the labelled set of a round: the index of each example, the round for which it was labelled, its class."""
    columns = (labeled.indices, labeled.rounds, labeled.labels)
    rows = [f"{index},{number},{label}\n" for index, number, label in zip(*columns, strict=True)]
    write_text(path, ",".join(LABELED_COLUMNS) + "\n" + "".join(rows))


def read_labeled(path: Path, examples: int, classes: int) -> LabeledSet:
    """Read the labelled set of a round, from a training pool of so many examples and a data set of so many classes.

    Raises:
        UserError: the file is not such a list, an index or a label is out of range, or an index appears twice.
    """
    rows = read_rows(path, LABELED_COLUMNS, LABEL, "3 whole numbers (as label also -1: unknown)")
    values = np.array([[int(cell) for cell in row] for row in rows], dtype=np.int64).reshape(-1, 3)
    indices, rounds, labels = (column.copy() for column in values.T)
    if not len(indices):
        raise UserError(f"{path}: no labels in it; delete it and run again")
    outside = indices[(indices < 0) | (indices >= examples)]
    if len(outside):
        raise UserError(f"{path}: index {outside[0]} is not in the training pool of {examples} examples")
    unique, counts = np.unique(indices, return_counts=True)
    if len(unique) < len(indices):
        raise UserError(f"{path}: index {unique[counts > 1][0]} appears twice")
    if (rounds < 1).any():
        raise UserError(f"{path}: rounds count from 1")
    for index, label in zip(indices[labels >= classes], labels[labels >= classes], strict=True):
        raise UserError(f"{path}: the label of index {index} is {label}, but the data set has {classes} classes")
    return LabeledSet(indices, rounds, labels)


def check_rounds(path: Path, labeled: LabeledSet, rounds: int, bought: Sequence[int] | None = None) -> None:
    """Check that every round has its number of labels. A file cut at the end of a line fails here.

    Args:
        path: the file of the labels, for the message.
        labeled: the labels.
        rounds: the newest round with labels.
        bought: the labels that have been bought when each of these rounds trains. If it is None, round 1 may have any
            number, and all later rounds must have the same.

    Raises:
        UserError: a round has more or fewer labels.
    """
    counts = np.bincount(labeled.rounds, minlength=rounds + 1)[1:].tolist()
    wanted = counts[:1] + counts[1:2] * (rounds - 1) if bought is None else np.diff(bought, prepend=0).tolist()
    for number, (count, size) in enumerate(zip_longest(counts, wanted, fillvalue=0), 1):
        if count != size:
            raise UserError(f"{path}: {count} labels of round {number}, not {size}; delete it and run again")


def read_rows(path: Path, columns: Sequence[str], row: re.Pattern[str], expected: str) -> list[list[str]]:
    """Read the cells of a table whose lines all match ``row``, which ``expected`` describes in words.

    Raises:
        UserError: a line does not match, the header names other columns, or the last line has no end.
    """
    # Split by hand: str.splitlines and csv.reader accept line ends and quotes that are never written here.
    lines = read_text(path, columns).split("\n")[:-1]
    for number, line in enumerate(lines, start=2):
        if not row.fullmatch(line):
            raise UserError(f"{path}: line {number}: expected {expected}")
    return [line.split(",") for line in lines]


def read_text(path: Path, columns: Sequence[str]) -> str:
    """Read the text of a table after its header.

    Raises:
        UserError: the header names other columns, or the last line has no end.
    """
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a CSV file") from None
    first, _, rest = text.partition("\n")
    if first != ",".join(columns):
        raise UserError(f"{path}: the first line must be {','.join(columns)}; is it another kind of file?")
    if not text.endswith("\n"):
        raise UserError(f"{path}: cut off within its last line; delete it and run again")
    return rest


def write_scores(
    path: Path,
    indices: npt.NDArray[np.int64],
    choice: Choice,
    entropy: npt.NDArray[np.floating[Any]] | None = None,
    confidence: npt.NDArray[np.floating[Any]] | None = None,
    predicted: npt.NDArray[np.int64] | None = None,
) -> None:
    """Write the scores of a round's candidates, all arrays of shape (S,), and which were chosen.

    A score has enough digits to give its float32 back, so that the file alone repeats the selection. The column
    ``pick`` numbers the chosen ones from 1, in the order of choice. Scores and predictions that the query did not
    compute stay empty.
    """
    picks = [""] * len(indices)
    for number, position in enumerate(choice.picks.tolist(), start=1):
        picks[position] = str(number)
    empty = [""] * len(indices)
    columns = (
        indices.tolist(),
        empty if choice.scores is None else [str(score) for score in choice.scores],
        empty if entropy is None else [f"{value:.6g}" for value in entropy],
        empty if confidence is None else [f"{value:.6g}" for value in confidence],
        empty if predicted is None else predicted.tolist(),
        picks,
    )
    rows = [",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)]
    write_text(path, ",".join(SCORE_COLUMNS) + "\n" + "".join(rows))


def write_test_scores(
    path: Path,
    indices: npt.NDArray[np.int64] | tuple[()] = (),
    scores: npt.NDArray[np.float32] | tuple[()] = (),
    losses: npt.NDArray[np.float64] | tuple[()] = (),
) -> None:
    """Write the scores of test examples and their true losses in nats, all of shape (N,); without arrays, the header.

    A score has the digits of ``write_scores``. Numbers that are not finite are written as ``nan`` and ``inf``.
    """
    rows = [f"{index},{score!s},{loss:.6g}\n" for index, score, loss in zip(indices, scores, losses, strict=True)]
    write_text(path, ",".join(TEST_SCORE_COLUMNS) + "\n" + "".join(rows))


def write_logits(path: Path, logits: npt.NDArray[np.float32]) -> None:
    """Write the logits of the test examples, float32, shape (N, C)."""
    with replacing(path) as file:
        np.save(file, logits, allow_pickle=False)


def torch_version(folder: Path) -> str:
    """Return the version of PyTorch that a round was trained with.

    Raises:
        UserError: the round's settings do not contain it.
    """
    path = folder / TRAINING
    try:
        found = read_json(path)["versions"]["torch"]
        if isinstance(found, str) and re.fullmatch(VERSION, found):
            return found
    except (KeyError, TypeError):
        pass
    raise UserError(f"{path}: no version of PyTorch in it; {RERUN}")
