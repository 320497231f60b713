"""The images that wait for a person, and what the person is to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lplgrad import datasets
from lplgrad.datasets import Listing
from lplgrad.datasets.prepared.growing import Hashes, contents
from lplgrad.datasets.prepared.shards import PoolFile, known_images
from lplgrad.labeling.asking import read_batch, table_of
from lplgrad.labeling.batch import CANNOT_TELL, LATER, Asked, Batch
from lplgrad.labeling.given import answer_to, check_kept, collect, extended, how_to_add_class, known_classes
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import unescaped
from lplgrad.rounds.files import read_labeled
from lplgrad.study.layout import CHECKPOINT, Layout
from lplgrad.study.settings import Study
from lplgrad.study.validation import from_here


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
