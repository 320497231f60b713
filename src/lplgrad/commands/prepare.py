"""Prepare a data set: read or download its images once, and write them as arrays that open without being read."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = "lplgrad prepare --settings '{source: digits}' --output data/digits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument(
        "--settings", required=True, metavar="YAML", help="the data set's source and the source's options"
    )
    parser.add_argument(
        "--downloads", type=Path, default=Path("data/downloads"), metavar="DIR",
        help="where files are downloaded to, or already lie (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the prepared data set")


def run(arguments: argparse.Namespace) -> None:
    """Prepare the data set."""
    from lplgrad import datasets
    from lplgrad.arrays import write_dataset
    from lplgrad.commands.common import parse_settings
    from lplgrad.progress import say
    from lplgrad.settings import SourceJob
    from lplgrad.validation import parse

    settings = parse_settings(SourceJob, arguments.settings)
    source = datasets.load(settings.source)
    prepared = source.prepare(parse(source.options, settings.options, "--settings"), arguments.downloads)
    write_dataset(arguments.output, prepared)
    say(
        f"{arguments.output}: {len(prepared.train.images)} training and {len(prepared.test.images)} test images of "
        f"{'x'.join(map(str, prepared.train.images.shape[1:]))} in {len(prepared.classes)} classes"
    )
