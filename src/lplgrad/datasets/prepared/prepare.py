"""Prepare a data set: read or download its images once, and write them as arrays that open without being read."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from lplgrad import datasets
from lplgrad.datasets.prepared.images import UnreadableImagesError
from lplgrad.datasets.prepared.originals import listing
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import DownloadError, UserError
from lplgrad.machine.files import printable, remove, write_text
from lplgrad.machine.locks import alone
from lplgrad.machine.log import say
from lplgrad.rounds.round import check_positive
from lplgrad.study.availability import FAILED_DOWNLOAD
from lplgrad.study.settings import SourceJob
from lplgrad.study.validation import parse, parse_settings


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set."""

    check_positive("--threads", arguments.threads)
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # a log keeps no debris of torchvision's bars
    settings = parse_settings(SourceJob, arguments.settings)
    source = datasets.load(settings.source)
    options = parse(source.options, settings.options, "--settings")
    failed, listed = arguments.output / FAILED_DOWNLOAD, arguments.output / "unreadable.tsv"
    # One process at a time downloads and unpacks, and one writes a data set: another data set may be of the same
    # archive, and a Snakemake that was killed may have left a job behind.
    with alone(arguments.output, "prepare"):
        try:
            originals = source.originals(options, arguments.downloads)
            before = listing(originals) if originals is not None and originals.exists() else None
            with alone(arguments.downloads, "prepare") if _writable(arguments.downloads) else nullcontext():
                prepared = source.prepare(options, arguments.downloads)
        except DownloadError as error:
            reason = f"{error}, delete {failed} and run again"
            write_text(failed, f"{reason}\n")
            raise UserError(f"{reason}; until then, studies that have no results of it leave it out") from None
        remove(failed)
        try:
            known_by = {"source": settings.source, **options.model_dump()}
            data = write_dataset(arguments.output, prepared, arguments.threads, known_by, before)
        except UnreadableImagesError as error:
            lines = (f"{printable(path)}\t{printable(reason)}\n" for path, reason in error.reasons.items())
            write_text(listed, "".join(lines))
            raise UserError(f"{error}; all are listed in {listed}: repair or remove them and run again") from None
        remove(listed)
    say(
        f"{arguments.output}: {len(data.train.images)} training and {len(data.test.images)} test images of "
        f"{'x'.join(map(str, data.train.images.shape[1:]))} in {len(data.classes)} classes"
    )


def _writable(folder: Path) -> bool:
    """Whether a folder can be written, or made; in one that cannot nothing is downloaded or unpacked."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return os.access(there, os.W_OK)
