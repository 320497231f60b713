"""The files of a round: how each is written, and how it is read back and found whole.

Every reader refuses what is truncated or foreign in one line that names the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lplgrad.arrays import open_array
from lplgrad.errors import UserError
from lplgrad.files import remove, replacing, write_text
from lplgrad.pool import LabeledSet

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

LABELED_COLUMNS = ["index", "round"]
SCORE_COLUMNS = ["index", "score", "entropy", "confidence", "predicted_class", "selected"]
TEST_SCORE_COLUMNS = ["index", "score", "loss"]
OBSERVED_COLUMNS = ["index", "class", "loss", "entropy", "gradient_norm", "predicted_loss"]
CONFIDENCE_COLUMNS = ["index", "labeled", "confidence"]
CHECKPOINT_FORMAT = "lplgrad checkpoint 1"
# Of a row. int() and float() take more (1_000, full-width digits, signs, blanks); a file written here never has that.
NUMBER = r"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?|inf|nan)"
LABEL = re.compile(r"[0-9]{1,18},[0-9]{1,18}")
FINITE = r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-][0-9]+)?"
SCORE = re.compile(rf"[0-9]{{1,18}},{FINITE},(?:{NUMBER},{NUMBER},[0-9]{{1,18}}|,,),[01]")
TEST_SCORE = re.compile(rf"[0-9]{{1,18}},{NUMBER},{NUMBER}")
OBSERVED = re.compile(rf"[0-9]{{1,18}},[0-9]{{1,18}},{NUMBER},{NUMBER},{NUMBER},(?:{NUMBER})?")
CONFIDENCE = re.compile(rf"[0-9]{{1,18}},[01],{NUMBER}")


PROGRESS = "progress.safetensors"  # of a training, in its round's folder: see ``resuming``


def forget_progress(folder: Path) -> None:
    """Remove the progress file of a round, of which a later job was handed the results."""
    remove(folder / PROGRESS)


def write_labeled(path: Path, labeled: LabeledSet) -> None:
    """Write the labelled set of a round: image index, and the round in which it was labelled."""
    rows = [f"{index},{number}\n" for index, number in zip(labeled.indices, labeled.rounds, strict=True)]
    write_text(path, ",".join(LABELED_COLUMNS) + "\n" + "".join(rows))


def read_labeled(path: Path, images: int) -> LabeledSet:
    """Read the labelled set of a round.

    Args:
        path: what ``write_labeled`` wrote.
        images: size of the training pool.

    Raises:
        UserError: the file is not such a list, or an index is out of range or stands twice.
    """
    rows = _read_rows(path, LABELED_COLUMNS, LABEL, "2 whole numbers")
    values = np.array([[int(cell) for cell in row] for row in rows], dtype=np.int64).reshape(-1, 2)
    indices, rounds = values[:, 0].copy(), values[:, 1].copy()
    if not len(indices):
        raise UserError(f"{path}: no labels in it; delete it and run again")
    outside = indices[(indices < 0) | (indices >= images)]
    if len(outside):
        raise UserError(f"{path}: index {outside[0]} is not in the training pool of {images} images")
    unique, counts = np.unique(indices, return_counts=True)
    if len(unique) < len(indices):
        raise UserError(f"{path}: index {unique[counts > 1][0]} stands in it twice")
    if (rounds < 1).any():
        raise UserError(f"{path}: rounds count from 1")
    return LabeledSet(indices, rounds)


def _read_rows(path: Path, columns: Sequence[str], row: re.Pattern[str], expected: str) -> list[list[str]]:
    """The cells of a table each of whose lines matches ``row``, which ``expected`` describes in words."""
    # Split by hand: str.splitlines and csv.reader take more for a line or a cell than is ever written here.
    lines = read_text(path, columns).split("\n")[:-1]
    for number, line in enumerate(lines, start=2):
        if not row.fullmatch(line):
            raise UserError(f"{path}: line {number}: expected {expected}")
    return [line.split(",") for line in lines]


def read_text(path: Path, columns: Sequence[str]) -> str:
    """Read the text of a table after its first line.

    Raises:
        UserError: the first line does not name just these columns, or the last line has no end.
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
    scores: npt.NDArray[np.float32],
    selected: npt.NDArray[np.bool_],
    entropy: npt.NDArray[np.floating[Any]] | None = None,
    confidence: npt.NDArray[np.floating[Any]] | None = None,
    predicted: npt.NDArray[np.int64] | None = None,
) -> None:
    """Write the scores of a round's candidates, all arrays of shape (S,).

    A score is written with the digits that give its float32 back, so that the file alone repeats the selection.
    What an acquisition function had no need of (a random query looks at no prediction) is left empty.
    """
    empty = [""] * len(indices)
    columns = (
        indices.tolist(),
        [str(score) for score in scores],
        empty if entropy is None else [f"{value:.6g}" for value in entropy],
        empty if confidence is None else [f"{value:.6g}" for value in confidence],
        empty if predicted is None else predicted.tolist(),
        selected.astype(int).tolist(),
    )
    rows = [",".join(map(str, row)) + "\n" for row in zip(*columns, strict=True)]
    write_text(path, ",".join(SCORE_COLUMNS) + "\n" + "".join(rows))


def read_scores(path: Path, candidates: npt.NDArray[np.int64], query_size: int) -> pd.DataFrame:
    """Read the scores of a round's candidates.

    Args:
        path: what ``write_scores`` wrote.
        candidates: those that the round drew, in their order; none, if the trial had stopped.
        query_size: how many of them were chosen.

    Returns:
        A row for each candidate, the columns ``SCORE_COLUMNS``. What the table leaves empty is NaN.

    Raises:
        UserError: the file is not such a table, or not of these candidates, or the chosen are not those of highest
            score.
    """
    rows = _read_rows(path, SCORE_COLUMNS, SCORE, "index, score, entropy, confidence, class and 0 or 1")
    frame = _frame(rows, SCORE_COLUMNS)
    if frame["index"].tolist() != candidates.tolist():
        raise UserError(f"{path}: not the {len(candidates)} candidates of this round; delete it and run again")
    if frame["predicted_class"].notna().nunique() > 1:
        raise UserError(f"{path}: not all candidates have a predicted class; delete it and run again")
    best = np.argsort(-frame["score"].to_numpy(np.float32), kind="stable")[:query_size]
    if not np.array_equal(np.sort(best), np.flatnonzero(frame["selected"])):
        raise UserError(f"{path}: not the {len(best)} highest scores are selected; delete it and run again")
    return frame


def _frame(rows: list[list[str]], columns: list[str]) -> pd.DataFrame:
    """Numbers by column, whole ones wherever all of a column are; an empty cell is NaN."""
    import pandas as pd

    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    whole = {"index", "class", "labeled", "selected"}
    return pd.DataFrame(
        {
            name: [int(cell) for cell in column] if name in whole else [float(cell or "nan") for cell in column]
            for name, column in zip(columns, cells, strict=True)
        }
    )


def write_test_scores(
    path: Path,
    indices: npt.NDArray[np.int64] | tuple[()] = (),
    scores: npt.NDArray[np.float32] | tuple[()] = (),
    losses: npt.NDArray[np.float64] | tuple[()] = (),
) -> None:
    """Write the scores of test images beside their true losses in nats, all of shape (N,); the header alone for none.

    A score is written as in ``write_scores``, so that scores rank as they did; what is not finite as ``nan``, ``inf``.
    """
    rows = [f"{index},{score!s},{loss:.6g}\n" for index, score, loss in zip(indices, scores, losses, strict=True)]
    write_text(path, ",".join(TEST_SCORE_COLUMNS) + "\n" + "".join(rows))


def read_test_scores(path: Path, count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Read scores and true losses of test images.

    Args:
        path: what ``write_test_scores`` wrote.
        count: how many images were drawn.

    Returns:
        Scores and losses, each of shape (``count``,), in the order of the file.

    Raises:
        UserError: the file is not such a table, or not of so many images.
    """
    rows = _read_rows(path, TEST_SCORE_COLUMNS, TEST_SCORE, "an index and two numbers")
    if len(rows) != count:
        raise UserError(f"{path}: scores of {len(rows)} test images, not of {count}; delete it and run again")
    values = np.array([[float(cell) for cell in row[1:]] for row in rows]).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def write_logits(path: Path, logits: npt.NDArray[np.float32]) -> None:
    """Write the logits of the test images, float32, shape (N, C)."""
    with replacing(path) as file:
        np.save(file, logits, allow_pickle=False)


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
    rows = _read_rows(path, OBSERVED_COLUMNS, OBSERVED, "index, class, loss, entropy, gradient norm, predicted loss")
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
    frame = _frame(_read_rows(path, CONFIDENCE_COLUMNS, CONFIDENCE, "index, 0 or 1, confidence"), CONFIDENCE_COLUMNS)
    flags = [1] * len(labeled) + [0] * unlabeled
    first = frame["index"].tolist()[: len(labeled)]
    if frame["labeled"].tolist() != flags or first != labeled.tolist() or frame["index"].duplicated().any():
        told = f"{len(labeled)} labelled and {unlabeled} unlabelled images of this round"
        raise UserError(f"{path}: not the {told}; delete it and run again")
    return frame


def check_rounds(path: Path, labeled: LabeledSet, rounds: int, query_size: int | None = None) -> None:
    """Every round has as many labels.

    Args:
        path: where the labels were read from.
        labeled: the labels.
        rounds: the newest round with labels.
        query_size: labels of a round; None for as many as the first has.

    Raises:
        UserError: a round has more or fewer labels, as where the file was cut off at the end of a line.
    """
    counts = np.bincount(labeled.rounds, minlength=rounds + 1)[1:]
    size = int(counts[0]) if query_size is None else query_size
    wrong = np.flatnonzero(counts != np.where(np.arange(len(counts)) < rounds, size, 0))
    if len(wrong):
        number = int(wrong[0]) + 1
        wanted = size if number <= rounds else 0
        raise UserError(f"{path}: {counts[number - 1]} labels of round {number}, not {wanted}; delete it and run again")


def write_checkpoint(path: Path, networks: Mapping[str, Mapping[str, Tensor]], description: Mapping[str, Any]) -> None:
    """Write the networks of a round as one safetensors file.

    Args:
        path: the file.
        networks: state of each network by name (``model``, ``auxiliary``, ...).
        description: what is needed to build the networks again, as JSON can hold it.
    """
    from safetensors.torch import save

    tensors = {
        f"{network}/{name}": tensor.detach().cpu().contiguous()
        for network, state in networks.items()
        for name, tensor in state.items()
    }
    # One metadata entry: safetensors writes several in no fixed order.
    header = json.dumps({"format": CHECKPOINT_FORMAT, **description}, sort_keys=True)
    data = save(tensors, metadata={"lplgrad": header})
    with replacing(path) as file:
        file.write(data)


def read_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read the networks of a round.

    Returns:
        The state of each network by name, on the CPU, and the description that was written with them.

    Raises:
        UserError: the file is truncated, or not a checkpoint of this program.
    """
    from safetensors import SafetensorError, safe_open

    path.open("rb").close()  # safetensors' own errors name no file
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("lplgrad", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); delete it and run again") from None
    if not isinstance(header, dict) or header.pop("format", None) != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: a safetensors file, but not a checkpoint of lplgrad")
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, _, parameter = name.partition("/")
        networks.setdefault(network, {})[parameter] = tensor
    return networks, header
