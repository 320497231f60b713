"""The batch of a round: the images that a query chose for a person, and the table that the person fills in.

The table is ``labels/<dataset>/round<r>.csv``. A person edits it by hand, the page (``server``) edits it, and answers
from elsewhere are imported into it. It is the only place where answers are stored, apart from the class folders into
which images may be moved. No job of the workflow has it as an output, so Snakemake never deletes it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lplgrad.machine.errors import UserError, nearest
from lplgrad.machine.files import write_text
from lplgrad.machine.locks import alone
from lplgrad.machine.tables import read_table

CANNOT_TELL = "?"  # an answer: the image is not trained on, and not asked about again
LATER = "-"  # an answer: the image stays unlabelled, and may be asked about again
COLUMNS = ["file", "label", "suggestion", "confidence", "score", "sha256"]


@dataclass(frozen=True)
class Asked:
    """An image that a person is asked about.

    Attributes:
        index: its position in the training pool.
        file: its path relative to the folder of the data set when it was asked about, as in ``files.csv``.
        sha256: of the file's bytes. It identifies an image that was moved or renamed.
        suggestion: the class that the model predicts; empty if the query used no model.
        confidence: the probability that the model gives to this class; None if the query used no model.
        score: the acquisition function's score, as text; empty if it has none.
    """

    index: int
    file: str
    sha256: str
    suggestion: str = ""
    confidence: float | None = None
    score: str = ""


class Batch:
    """The images of a round in the order of choice, and the table with the answers.

    Args:
        table: the file that the person fills in.
        images: the images.
        classes: the names of the classes.
        add_class: what to do to add a class, for messages.
    """

    def __init__(self, table: Path, images: Sequence[Asked], classes: Sequence[str], add_class: str = "") -> None:
        self.table = table
        self.images = list(images)
        self.classes = list(classes)
        self.add_class = add_class

    def __len__(self) -> int:
        return len(self.images)

    def write(self) -> None:
        """Write the table, or add rows of images that it lacks. Answers stay."""
        with alone(self.table.parent, self.table.stem):
            if not self.table.exists():
                self._save([""] * len(self.images))
            elif len({row["file"] for _, row in read_table(self.table, COLUMNS[:2])}) < len(self.images):
                self._save(self.answers())

    def answers(self) -> list[str]:
        """Read the answer to each image: a class, ``CANNOT_TELL``, ``LATER``, or empty if there is none yet.

        Raises:
            UserError: the table has an unknown class or image, or two answers to one image.
        """
        return self._merged(self.table, read_table(self.table, COLUMNS[:2]), [""] * len(self.images))

    def store(self, changes: Mapping[int, str]) -> None:
        """Store several answers at once, by position. All are stored, or none if the table cannot be read."""
        for answer in changes.values():
            if problem := self.problem(answer):
                raise UserError(problem)
        with alone(self.table.parent, self.table.stem):
            before = self.answers()
            after = [changes.get(position, answer) for position, answer in enumerate(before)]
            if after != before:
                self._save(after)

    def finish(self) -> int:
        """Answer ``LATER`` to all images without an answer, and return how many these are."""
        with alone(self.table.parent, self.table.stem):
            answers = self.answers()
            self._save([answer or LATER for answer in answers])
        return answers.count("")

    def merge(self, source: Path, rows: Iterable[tuple[int, Mapping[str, str]]]) -> int:
        """Store answers that come from another file, and return how many are new.

        Args:
            source: the file, for messages.
            rows: line numbers and cells ``file`` and ``label``.

        Raises:
            UserError: as in ``answers``, or an answer differs from the one in the table. Nothing is stored then.
        """
        with alone(self.table.parent, self.table.stem):
            before = self.answers()
            after = self._merged(source, rows, before)
            if after != before:
                self._save(after)
        return sum(one != other for one, other in zip(before, after, strict=True))

    def problem(self, answer: str) -> str:
        """Say what is wrong with an answer; empty if nothing is."""
        if answer in (*self.classes, CANNOT_TELL, LATER, ""):
            return ""
        hint = nearest(answer, self.classes)
        add = f"; {self.add_class}" if self.add_class else ""
        return f"unknown class {answer!r} ({hint}); write {CANNOT_TELL} if nobody can tell{add}"

    def _merged(self, path: Path, rows: Iterable[tuple[int, Mapping[str, str]]], answers: list[str]) -> list[str]:
        """Return ``answers`` with those of a table added."""
        places = {image.file: position for position, image in enumerate(self.images)}
        merged = list(answers)
        for number, row in rows:
            name, answer = row["file"], row["label"]
            position = places.get(name)
            if position is None:
                raise UserError(
                    f"{path}: line {number}: {name!r} is not one of the {len(self.images)} images that wait for a "
                    f"label; remove the line, or correct the name as in {self.table}"
                )
            if problem := self.problem(answer):
                raise UserError(f"{path}: line {number}: {problem}")
            other = merged[position]
            if answer and other not in ("", LATER, answer):
                raise UserError(
                    f"{path}: line {number}: {name!r} is labelled {answer!r}, but {other!r} before; correct one of them"
                )
            merged[position] = answer or other
        return merged

    def _save(self, answers: Sequence[str]) -> None:
        """Write the table with some answers. Columns that the person added stay."""
        rows = read_table(self.table, COLUMNS[:2]) if self.table.exists() else []
        added = [name for name in dict.fromkeys(name for _, row in rows for name in row) if name not in COLUMNS]
        others = {row["file"]: [row[name] for name in added] for _, row in rows}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *added])
        for image, answer in zip(self.images, answers, strict=True):
            confidence = "" if image.confidence is None else f"{image.confidence:.4f}"
            cells = [image.file, answer, image.suggestion, confidence, image.score, image.sha256]
            writer.writerow([*cells, *others.get(image.file, [""] * len(added))])
        write_text(self.table, text.getvalue())
