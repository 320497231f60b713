"""What a person has answered so far: in tables, and by placing images into class folders."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lplgrad import datasets
from lplgrad.datasets import Listing
from lplgrad.datasets.prepared.growing import Contents, Hashes, contents
from lplgrad.datasets.prepared.shards import Known, PoolFile, known_images
from lplgrad.labeling.asking import read_batch, table_of
from lplgrad.labeling.batch import CANNOT_TELL, COLUMNS, LATER, Asked, Batch
from lplgrad.machine.errors import UserError, nearest
from lplgrad.machine.files import printable, unescaped
from lplgrad.machine.tables import read_table
from lplgrad.rounds.files import read_labeled
from lplgrad.rounds.pool import UNKNOWN, LabeledSet
from lplgrad.study.layout import CHECKPOINT, Layout
from lplgrad.study.settings import Study
from lplgrad.study.validation import from_here


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


@dataclass(frozen=True)
class Waiting:
    """The batch that waits for a person.

    Attributes:
        round: whose query chose the images.
        batch: the images and their table.
        answers: to each image; empty if there is none yet.
        more: whether the pool has grown and the budget is not spent, so that a query could choose again.
        before: the labels that the round had bought.
        labels: the labels that the next round would have bought.
    """

    round: int
    batch: Batch
    answers: list[str]
    more: bool
    before: int
    labels: int

    @property
    def missing(self) -> list[Asked]:
        """The images without an answer."""
        return [image for image, answer in zip(self.batch.images, self.answers, strict=True) if not answer]

    @property
    def ready(self) -> bool:
        """Whether the next round can begin."""
        return not self.missing and (self.labels > self.before or (not len(self.batch) and self.more))


def message(here: Waiting | None, study: Study, layout: Layout, files: Sequence[str | Path]) -> list[str]:
    """Say what a person is to do next, in lines for the console. ``files`` are those of the configuration."""
    trial = next(layout.trials())
    model = f"{layout.trained(trial, max(len(layout.counts), 1))}/{CHECKPOINT}"
    if here is None:
        return []
    if here.ready:
        found = f"{here.labels - here.before} new labels" if here.labels > here.before else "new images"
        return [f"There are {found}; the next run of Snakemake goes on with them."]
    count, missing = len(here.batch), len(here.missing)
    if not count:
        most = study.datasets[trial.dataset].budgets[trial.budget].labels
        reason = f"the budget of {most} labels is spent" if here.before >= most else "all images have a label"
        return [f"Done: {reason}. The newest model is {model}; how it does: {layout.root}/review/review.html"]
    command = f"lplgrad label {shlex.join(map(from_here, map(str, files)))}"
    if not missing:
        return [
            f"All {count} images have the answer {LATER!r}, so there is nothing to train with.",
            f"Label some of them:  {command}  (or in the table {here.batch.table})",
        ]
    images = f"{missing} of {count} images wait" if missing < count else f"{count} images wait"
    return [
        f"{images} for a label: {here.batch.table}",
        f"Label them in a browser:  {command}",
        f"or fill in the column 'label' of the table ({CANNOT_TELL} if nobody can tell, {LATER} to leave one out),",
        "or move the images into the folders of their classes. Then run the same command of Snakemake again.",
        *([f"To go on without the others:  {command} --finish"] if missing < count else []),
        f"The newest model is {model}; how it does: {layout.root}/review/review.html",
    ]


def warnings(layout: Layout) -> list[str]:
    """Read the warnings of the job that took the labels of the newest round in."""
    trial, number = next(layout.trials()), len(layout.counts)
    labels = layout.labels(trial, number)
    name = "start.log" if number == 1 else "answers.log"
    log = Path("logs", Path(labels).parent.relative_to("results"), name)
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return [line for line in text.splitlines() if line.startswith("warning: ")]


def is_at(path: Path, image: Asked, hashes: Hashes) -> bool:
    """Return whether the file at a path is this image, unchanged."""
    return path.is_file() and hashes.of([path]) == [image.sha256]


def listing(study: Study) -> Listing:
    """List the files of the data set that a person labels, as they lie there now."""
    assert study.person is not None
    row = study.datasets[study.person]
    of_source = datasets.registry.load(row.source).listing
    assert of_source is not None
    found: Listing = of_source(row.checked_options)
    return found


def waiting(study: Study, layout: Layout) -> Waiting | None:
    """Return the batch that waits for a person; None if none does.

    Raises:
        UserError: a table has a mistake, an image is labelled twice differently, or a waiting image is gone.
    """
    try:
        return _waiting(study, layout)
    except OSError as error:  # a broken link, or a file that is being moved
        raise UserError(f"{error.filename}: {error.strerror}; put the file in order and run again") from None


def _waiting(study: Study, layout: Layout) -> Waiting | None:
    name = study.person
    if name is None or not layout.counts:
        return None
    trial, number = next(layout.trials()), len(layout.counts)
    path = Path(layout.batch(trial, number))
    if not Path(layout.data(name), "dataset.json").exists():
        raise UserError(
            f"{layout.data(name)}: is missing, and the rounds of this study depend on the positions of images in it; "
            f"restore it, or start over: delete {layout.root} (the labels in {layout.answers(name)} stay and count)"
        )
    for missing in (layout.labels(trial, number) for number in range(1, number + 1)):
        if not Path(missing).exists():
            raise UserError(f"{missing}: is missing; restore it, or start over: delete {layout.root}")
    begun = Path(layout.round(trial, number + 1), "metrics.json")
    if begun.exists():
        raise UserError(
            f"{layout.pool(trial, number + 1)}: is missing or broken, but round {number + 1} was trained; restore it, "
            f"or start over: delete {layout.root}"
        )
    if not path.exists():
        return None
    images, row = read_batch(path), study.datasets[name]
    data = Path(layout.data(name))
    files, hashes = listing(study), Hashes(data)
    pool, known = PoolFile.read(Path(layout.pool(trial, number))), known_images(data)
    # While images wait, only labelled images count, so the others need not be read.
    found = contents(files if not images else files._replace(unlabeled=[]), hashes)
    where = str(files.class_folders)
    classes = known_classes(pool.classes, row.classes, files.labeled, where)
    add_class = how_to_add_class(row.classes, where)
    answers, later = collect(Path(layout.answers(name)), known, found, classes, add_class)
    there = known.all()
    new = [digest for digest in (*found.labeled, *found.unlabeled) if digest not in there]
    batch = Batch(table_of(Path(layout.answers(name)), number, images), images, row.classes or classes, add_class)
    before = read_labeled(Path(layout.labels(trial, number)), pool.examples, len(pool.classes))
    check_kept(before, answers, later, known.names)
    labels = len(extended(before, answers, classes, number + 1)) + sum(digest in found.labeled for digest in new)
    most = study.datasets[name].budgets[trial.budget].labels
    more = len(before) < most and (bool(new) or len(known.names) > pool.examples)
    of_batch = [answer_to(image, batch.table, answers, later) for image in images]
    here = Waiting(number, batch, of_batch, more, len(before), labels)
    gone = [image for image in here.missing if not is_at(files.folder / unescaped(image.file), image, hashes)]
    if gone:
        elsewhere = contents(files, hashes).unlabeled
        for image in gone:
            if image.sha256 not in elsewhere:
                raise UserError(
                    f"{files.folder / image.file}: waits for a label, but is gone or has changed; put it back, or "
                    f"write {CANNOT_TELL} as its label in {batch.table}"
                )
    return here


def how_to_add_class(listed: Sequence[str] | None, where: str) -> str:
    """Say what to do to add a class."""
    if listed is None:
        return f"to add a class, make its folder in {where} and place an image there"
    return "to add a class, add it to classes in the configuration"
