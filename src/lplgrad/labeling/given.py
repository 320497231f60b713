"""What a person has answered so far: in tables, and by placing images into class folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from lplgrad.datasets.prepared.growing import Contents
from lplgrad.datasets.prepared.shards import Known
from lplgrad.labeling.batch import CANNOT_TELL, COLUMNS, LATER, Asked, Batch
from lplgrad.machine.errors import UserError, nearest
from lplgrad.machine.files import printable
from lplgrad.machine.tables import read_table
from lplgrad.rounds.pool import UNKNOWN, LabeledSet


def known_classes(
    before: Sequence[str], listed: Sequence[str] | None, folders: Mapping[str, Collection[object]], where: str
) -> list[str]:
    """Return the classes of a round: those of the round before in their order, then new ones.

    Args:
        before: the classes so far.
        listed: those that the configuration lists; None if it lists none.
        folders: the images in each class folder.
        where: the folder of the class folders, for messages.

    Raises:
        UserError: a class folder is not among the listed classes, or a class is no longer listed.
    """
    for name in (*folders, *(listed or ())):
        if name in (CANNOT_TELL, LATER) or name != name.strip():
            why = "tables lose its blanks" if name != name.strip() else "it is an answer of its own"
            raise UserError(f"{where}: {name!r} cannot be a class, because {why}; rename it")
    if listed is None:
        return [*before, *sorted(name for name in folders if folders[name] and name not in before)]
    for name in folders:
        if name not in listed:
            raise UserError(
                f"{where}/{name}: is not among the classes of the data set ({nearest(name, listed)}); rename the "
                f"folder, or add {name} to classes in the configuration"
            )
    for name in before:
        if name not in listed:
            raise UserError(f"classes: {name!r} is missing, but images have this label; add it again")
    return [*before, *(name for name in listed if name not in before)]


Later = Mapping[int, Collection[Path]]


def collect(
    folder: Path, known: Known, found: Contents, classes: Sequence[str], add_class: str
) -> tuple[dict[int, str], Later]:
    """Collect the answers of a person from all tables of a folder and from the class folders, by position in the pool.

    Args:
        folder: of the tables.
        known: the images of the pool.
        found: the images in the folder of the data set.
        classes: the names of the classes.
        add_class: what to do to add a class, for messages.

    Returns:
        Classes and ``CANNOT_TELL``; and the tables in which an image without such an answer has the answer ``LATER``.

    Raises:
        UserError: a table has an unknown class or image, or an image has two different labels.
    """
    images = _Images(known)
    answers: dict[int, str] = {}
    places: dict[int, str] = {}
    later: dict[int, list[Path]] = {}

    def add(index: int, answer: str, place: str) -> None:
        if answers.setdefault(index, answer) != answer:
            raise UserError(
                f"{place}: {known.names[index]!r} is labelled {answer!r}, but {answers[index]!r} in {places[index]}; "
                "correct one of the two"
            )
        places.setdefault(index, place)

    for digest, (path, name) in found.labeled.items():
        if digest in images.position:
            add(images.position[digest], name, printable(path))
    for table in tables_in(folder):
        batch = Batch(table, [], classes, add_class)
        for number, row in read_table(table, COLUMNS[:2]):
            answer, place = row["label"], f"{table}: line {number}"
            if problem := batch.problem(answer):
                raise UserError(f"{place}: {problem}")
            index = images.find(row["file"], row.get("sha256", ""), place)
            if index is None or not answer:
                continue
            if answer == LATER:
                later.setdefault(index, []).append(table)
            else:
                add(index, answer, place)
    return answers, {index: tables for index, tables in later.items() if index not in answers}


def tables_in(folder: Path) -> list[Path]:
    """List the tables in a folder, without the files that a spreadsheet keeps while it is open."""
    return [path for path in sorted(folder.glob("*.csv")) if path.is_file() and not path.name.startswith((".", "~"))]


class _Images:
    """Finds the images that tables name."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.position = {digest: index for index, digest in enumerate(known.digests)}
        self.by_name: dict[str, list[int]] = {}
        for index, name in enumerate(known.names):
            self.by_name.setdefault(name, []).append(index)

    def find(self, name: str, digest: str, place: str) -> int | None:
        """Return the position of an image; None if it is in the test set, or is gone since the data set began anew."""
        named = self.by_name.get(name, [])
        if digest in self.known.test:
            return None
        if digest in self.position and (not named or self.position[digest] in named):
            return self.position[digest]
        if digest and named:
            raise UserError(
                f"{place}: {name!r} has another sha256 than in files.csv; put the cells of the line in order"
            )
        if digest:
            return None
        if len(named) != 1:
            hint = nearest(name, self.by_name)
            problem = f"no image of the pool ({hint})" if not named else "the name of two images, one after the other"
            raise UserError(f"{place}: {name!r} is {problem}; correct the name, or remove the line")
        return named[0]


def answer_to(image: Asked, table: Path, answers: Mapping[int, str], later: Later) -> str:
    """Return the answer to an image of a batch; empty if there is none. ``LATER`` counts in its own table only."""
    return answers.get(image.index, "") or (LATER if table in later.get(image.index, ()) else "")


def check_kept(before: LabeledSet, answers: Mapping[int, str], later: Later, names: Sequence[str]) -> None:
    """Refuse the answer ``LATER`` to an image that has been labelled and trained on: it would have no effect."""
    for index in before.known.indices.tolist():
        if index in later and index not in answers:
            raise UserError(
                f"{next(iter(later[index]))}: {names[index]!r} has been trained on, and {LATER} does not withdraw its "
                f"label; write {CANNOT_TELL} instead, or the right class"
            )


def extended(before: LabeledSet, answers: Mapping[int, str], classes: Sequence[str], number: int) -> LabeledSet:
    """Return a labelled set with the answers of a person: corrected labels, and new ones for round ``number``.

    An image that has no answer any more keeps its label.
    """
    label = {name: place for place, name in enumerate(classes)} | {CANNOT_TELL: UNKNOWN}
    given = {index: label[answer] for index, answer in answers.items()}
    corrected = [
        given.pop(index, old) for index, old in zip(before.indices.tolist(), before.labels.tolist(), strict=True)
    ]
    kept = LabeledSet(before.indices, before.rounds, np.array(corrected, dtype=np.int64))
    return kept.extended(np.array(list(given), dtype=np.int64), np.array(list(given.values()), dtype=np.int64), number)


def how_to_add_class(listed: Sequence[str] | None, where: str) -> str:
    """Say what to do to add a class."""
    if listed is None:
        return f"to add a class, make its folder in {where} and place an image there"
    return "to add a class, add it to classes in the configuration"
