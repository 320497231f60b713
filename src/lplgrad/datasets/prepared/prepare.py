"""Prepare a data set: read or download its images once, and write them as arrays."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

from lplgrad import datasets
from lplgrad.datasets import Source
from lplgrad.datasets.prepared import growing
from lplgrad.datasets.prepared.file_names import FILES
from lplgrad.datasets.prepared.originals import listing
from lplgrad.datasets.prepared.writing import write_dataset
from lplgrad.machine.errors import DownloadError, UserError
from lplgrad.machine.files import remove, write_text
from lplgrad.machine.locks import alone
from lplgrad.machine.log import say
from lplgrad.study.availability import FAILED_DOWNLOAD
from lplgrad.study.jobs import SourceJob
from lplgrad.study.validation import Settings, parse, parse_settings


def run_command(arguments: argparse.Namespace) -> None:
    """Prepare the data set, and first remove the names of the files of an earlier one.

    The digest of the rule covers ``run`` only, so data sets that were prepared before there were names stay.
    """
    remove(arguments.output / FILES)
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set."""
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # torchvision would write its progress bars to the log
    settings = parse_settings(SourceJob, arguments.settings)
    source = datasets.registry.load(settings.source)
    options = parse(source.options, settings.options, "--settings")
    if settings.oracle == "person":
        _prepare_for_person(arguments, settings, source, options)
        return
    failed = arguments.output / FAILED_DOWNLOAD
    # One process at a time writes a data set, and one downloads and unpacks. Other data sets may use the same archive,
    # and a killed Snakemake may have left a job running.
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
        known_by = {"source": settings.source, **options.model_dump()}
        data = write_dataset(arguments.output, prepared, arguments.threads, known_by, before, source.modality)
    pool, test = (data.splits[name].inputs for name in ("train", "test"))
    say(
        f"{arguments.output}: {len(pool)} training and {len(test)} test examples of "
        f"{'x'.join(map(str, pool.shape[1:]))} in {len(data.classes)} classes"
    )


def _prepare_for_person(arguments: argparse.Namespace, settings: SourceJob, source: Source, options: Settings) -> None:
    """Prepare a data set whose labels a person gives."""
    if source.listing is None:
        raise UserError(f"--settings: oracle: source {settings.source!r} has no unlabelled examples for a person")
    known_by = {"source": settings.source, "oracle": settings.oracle, **options.model_dump()}
    with alone(arguments.output, "prepare"):
        data = growing.prepare(arguments.output, source.listing(options), arguments.threads, known_by, source.modality)
    pool, test = (data.splits[name].inputs for name in ("train", "test"))
    say(f"{arguments.output}: {len(pool)} images in the pool and {len(test)} test images, {len(data.classes)} classes")


def _writable(folder: Path) -> bool:
    """Return whether a folder can be written or created. Otherwise nothing is downloaded or unpacked there."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return os.access(existing, os.W_OK)
