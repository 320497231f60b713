"""``lplgrad answers``: the labels that a person has given become the labelled set and the pool of a round."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lplgrad import datasets
from lplgrad.datasets import Listing
from lplgrad.datasets.prepared.arrays import checksums, open_dataset
from lplgrad.datasets.prepared.growing import Contents, Hashes, add_shard, contents
from lplgrad.datasets.prepared.shards import SHARD, SHARDS, Known, PoolFile, count_shards, known_images, open_pool
from lplgrad.labeling.asking import read_batch, table_of
from lplgrad.labeling.batch import CANNOT_TELL
from lplgrad.labeling.given import answer_to, check_kept, collect, extended, how_to_add_class, known_classes
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable, read_json
from lplgrad.machine.locks import alone
from lplgrad.machine.log import say
from lplgrad.rounds.files import read_labeled, write_labeled
from lplgrad.rounds.pool import LabeledSet
from lplgrad.study.jobs import SourceJob
from lplgrad.study.validation import parse, parse_settings, read_yaml


def run(arguments: argparse.Namespace) -> None:
    """Collect the answers, add new images to the pool, and write the labelled set and the pool of the round.

    Raises:
        UserError: an answer is wrong, a waiting image has none, or nothing was labelled.
    """
    labeled_file, pool_file = arguments.output
    with alone(arguments.data, "answers"):
        data, number = open_dataset(arguments.data), arguments.round
        first = number == 1
        for option in ("labeled", "pool", "batch"):
            if first != (getattr(arguments, option) is None):
                raise UserError(f"--{option}: {'not wanted' if first else 'missing'} in round {number}")
        earlier = None if first else open_pool(data, arguments.pool)[1]
        listing, hashes = _listing(arguments.settings), Hashes(data.folder)
        found = contents(listing, hashes)
        added = add_shard(data, listing, found, arguments.threads)
        known = known_images(data.folder)
        where = str(listing.class_folders)
        listed = None if arguments.classes is None else _listed(arguments.classes)
        classes = known_classes(earlier.classes if earlier else data.classes, listed, listing.labeled, where)
        answers, later = collect(arguments.answers, known, found, classes, how_to_add_class(listed, where))
        before = LabeledSet()
        if earlier:
            before = read_labeled(arguments.labeled, earlier.examples, len(earlier.classes))
            images = read_batch(arguments.batch)
            table = table_of(arguments.answers, number - 1, images)
            missing = [image.file for image in images if not answer_to(image, table, answers, later)]
            if missing:
                raise UserError(
                    f"{arguments.batch}: {len(missing)} of {len(images)} images have no answer: {missing[0]}"
                )
        check_kept(before, answers, later, known.names)
        labeled = extended(before, answers, classes, number)
        _check_test_set(listing, found, known)
        if late := [digest for digest in found.test or {} if digest not in known.test]:
            say(f"warning: {listing.folder}: {len(late)} image(s) in test/ came later; the test set stays as it was")
        if earlier and len(labeled) == len(before) and len(known.names) == earlier.examples:
            raise UserError(f"{arguments.answers}: no new label; label some of the images that wait")
        there = {*found.unlabeled, *found.labeled}
        gone = [index for index, digest in enumerate(known.digests) if digest not in there]
        removed = np.setdiff1d(gone, labeled.indices).astype(int).tolist()
        unsourced = int((~np.isin(before.known.indices, [*answers])).sum())
        if unsourced:
            say(
                f"warning: {unsourced} earlier label(s) are in no table and no class folder any more, and stay; write "
                f"{CANNOT_TELL} as the label of an image to withdraw it"
            )
        _report(number, labeled, before, classes, earlier, added, len(removed))
        write_labeled(Path(labeled_file), labeled)
        # The pool comes last: its file says that the round exists.
        PoolFile(
            classes,
            [int((labeled.rounds == one).sum()) for one in range(1, number + 1)],
            checksums(data.folder)["train_inputs"],
            [
                read_json(data.folder / SHARDS / str(shard) / SHARD)["inputs_sha256"]
                for shard in range(1, count_shards(data.folder) + 1)
            ],
            len(known.names),
            removed,
        ).write(Path(pool_file))


def _listed(text: str) -> list[str]:
    """Read a list of classes."""
    names = read_yaml(text, "--classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f'--classes: expected a list of names, as ["cat", "dog"], not {text!r}')
    return names


def _listing(words: Sequence[str]) -> Listing:
    """List the files of the data set with the settings of its source."""
    job = parse_settings(SourceJob, words)
    source = datasets.registry.load(job.source)
    if source.listing is None:
        raise UserError(f"--settings: source: {job.source} has no images without labels")
    return source.listing(parse(source.options, job.options, "--settings"))


def _check_test_set(listing: Listing, found: Contents, known: Known) -> None:
    """Warn of test images whose class folder has changed: the test set stays as it was prepared."""
    now = {**found.labeled, **(found.test or {})}
    moved = [digest for digest, name in known.test.items() if digest in now and now[digest][1] != name]
    if moved:
        path = printable(now[moved[0]][0])
        say(
            f"warning: {listing.folder}: {len(moved)} test image(s) have another class now, as {path} "
            f"({known.test[moved[0]]!r} before); the test set stays as it was prepared, so start over to correct it"
        )


def _report(
    number: int, labeled: LabeledSet, before: LabeledSet, classes: list[str], earlier: PoolFile | None,
    added: int, removed: int,
) -> None:  # fmt: skip
    """Write to the log what the round begins with."""
    known = labeled.known
    unknown = len(labeled) - len(known)
    say(f"round {number}: {len(labeled)} labels bought, {len(known)} trained on ({unknown} cannot be told)")
    corrected = int((labeled.labels[: len(before)] != before.labels).sum())
    lines = {
        f"{corrected} earlier label(s) were corrected": corrected,
        f"{added} new image(s) joined the pool": added if number > 1 else 0,
        f"warning: {removed} unlabelled image(s) are gone, and are not asked about": removed,
    }
    for line, count in lines.items():
        if count:
            say(line)
    if earlier and (new := classes[len(earlier.classes) :]):
        say(f"warning: new class(es): {', '.join(new)}; the model of round {number} starts with new weights")
    counts = np.bincount(known.labels, minlength=len(classes))
    for name, count in zip(classes, counts, strict=True):
        if count < 2:
            say(f"warning: class {name!r} has {count or 'no'} label(s); label more of it")
