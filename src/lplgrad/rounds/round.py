"""What several sub-commands share: arguments, and reading what they name."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lplgrad import __version__
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say

if TYPE_CHECKING:
    from lplgrad.rounds.pool import LabeledSet
    from lplgrad.study.validation import Settings


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1], not {text}")
    return value


def add_target(parser: argparse.ArgumentParser) -> None:
    """The argument of a trial that may stop before its budget is spent."""
    parser.add_argument(
        "--target-accuracy", type=_fraction, metavar="FRACTION", help="test accuracy at which the trial stops"
    )


def add_partial(parser: argparse.ArgumentParser) -> None:
    """The argument of a table that was made while its study ran, by ``lplgrad report --partial``."""
    parser.add_argument("--partial", action="store_true", help="the study is not finished: rounds may be missing")


def say_settings(settings: Settings) -> None:
    """The first line of a job's log: what runs where, with which settings."""
    from importlib.metadata import version

    cards = os.environ.get("CUDA_VISIBLE_DEVICES")
    where = f"{platform.node()}, CUDA_VISIBLE_DEVICES={cards}" if cards else platform.node()
    say(
        f"lplgrad {__version__}, Python {platform.python_version()}, PyTorch {version('torch')}, on {where}: "
        f"{json.dumps(settings.model_dump(by_alias=True))}"
    )


def check_seed(seed: int) -> None:
    """A seed of the command line is held to what the configuration allows."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: must be from 0 to {2**32 - 1}, not {seed}")


def check_positive(option: str, number: int) -> None:
    """A count of the command line, or a round: rounds count from 1."""
    if number < 1:
        raise UserError(f"{option}: must be 1 or more, not {number}")


def check_round(path: Path, labeled: LabeledSet, round_number: int) -> None:
    """The labels of a round end with those that the query before it bought, and each round bought as many."""
    from lplgrad.rounds.files import check_rounds

    newest = int(labeled.rounds.max())
    if newest != round_number:
        raise UserError(f"{path}: the labels of round {newest}, not of round {round_number}")
    check_rounds(path, labeled, round_number)


def check_clock(paths: Iterable[Path]) -> None:
    """The clock was not set back since the inputs were written: Snakemake discards outputs that are older than their
    inputs, when the work is done.
    """
    now = time.time()
    for path in paths:
        ahead = path.stat().st_mtime - now
        if ahead > 60:  # clocks of a cluster differ by seconds
            raise UserError(
                f"{path}: is dated {ahead / 3600:.1f} hours ahead of this machine's clock, and Snakemake would discard "
                'what is made of it; set the clock right, or date the files anew (docs/cluster.md, "The pulled plug")'
            )


def check_endings(paths: list[Path], endings: tuple[str, ...]) -> None:
    """The ending of an output's name says what is written."""
    for path in paths:
        if path.suffix not in endings:
            raise UserError(f"--output: {path}: the name must end in {' or '.join(endings)}")
