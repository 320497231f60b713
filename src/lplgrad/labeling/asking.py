"""Ask a person: the images that a query chose, as a file of the round and as a table to fill in."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lplgrad.acquisition import Choice
from lplgrad.datasets.prepared.shards import known_images
from lplgrad.labeling.batch import COLUMNS, Asked, Batch
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_text
from lplgrad.machine.log import say
from lplgrad.machine.tables import read_table
from lplgrad.rounds.pool import Indices

if TYPE_CHECKING:
    from lplgrad.rounds.round import Round
    from lplgrad.study.jobs import QueryJob

BATCH = "to_label.csv"
BATCH_COLUMNS = ["index", "file", "sha256", "suggestion", "confidence", "score"]


def write_batch(path: Path, images: Sequence[Asked]) -> None:
    """Write the images that a query chose for a person."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BATCH_COLUMNS)
    for image in images:
        confidence = "" if image.confidence is None else f"{image.confidence:.6g}"
        writer.writerow([image.index, image.file, image.sha256, image.suggestion, confidence, image.score])
    write_text(path, text.getvalue())


def read_batch(path: Path) -> list[Asked]:
    """Read the images that a query chose for a person."""
    try:
        return [
            Asked(
                int(row["index"]), row["file"], row["sha256"], row["suggestion"],
                float(row["confidence"]) if row["confidence"] else None, row["score"],
            )
            for _, row in read_table(path, BATCH_COLUMNS)
        ]  # fmt: skip
    except ValueError:
        raise UserError(f"{path}: not the images of a query; delete it and run again") from None


def table_of(folder: Path, number: int, images: Sequence[Asked]) -> Path:
    """Return the table for the images of a round: the one that lists them already, or a new one.

    Another study on the same data set, or a query that ran again, may have written ``round<r>.csv`` with other images.
    That table stays, with its answers.
    """
    files, copy = {image.file for image in images}, 1
    while True:
        path = folder / (f"round{number}.csv" if copy == 1 else f"round{number}_{copy}.csv")
        if not path.exists() or {row["file"] for _, row in read_table(path, COLUMNS[:2])} <= files:
            return path
        copy += 1


def ask(here: Round[QueryJob], candidates: Indices, choice: Choice, predictions: Mapping[str, Any]) -> None:
    """Write the images that a query chose, in the order of choice, and the table that a person fills in.

    Args:
        here: the round.
        candidates: positions in the pool, shape (S,).
        choice: of some of them.
        predictions: ``confidence`` and ``predicted`` of the candidates, each of shape (S,); empty without a model.
    """
    assert here.pool is not None
    known = known_images(here.data.folder, len(here.pool.shards))
    images = []
    for pick in choice.picks.tolist():
        index = int(candidates[pick])
        suggestion = here.data.classes[int(predictions["predicted"][pick])] if predictions else ""
        confidence = float(f"{predictions['confidence'][pick]:.6g}") if predictions else None
        score = "" if choice.scores is None else str(choice.scores[pick])
        images.append(Asked(index, known.names[index], known.digests[index], suggestion, confidence, score))
    write_batch(here.folder / BATCH, images)
    if images:
        table = table_of(here.arguments.answers, here.number, images)
        Batch(table, images, here.data.classes).write()
        say(f"{len(images)} images wait for labels in {table}")
