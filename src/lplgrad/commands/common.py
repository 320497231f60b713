"""What several sub-commands share: reading settings from the command line, and a job's first line in its log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lplgrad.errors import UserError
from lplgrad.validation import SettingsT, parse, read_yaml

if TYPE_CHECKING:
    import pandas as pd


def parse_settings(kind: type[SettingsT], text: str, option: str = "--settings") -> SettingsT:
    """Settings given on the command line, as YAML in one argument."""
    return parse(kind, read_yaml(text, option) or {}, option)


def check_seed(seed: int) -> None:
    """A seed of the command line is held to what the configuration allows."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed: must be from 0 to {2**32 - 1}, not {seed}")


def check_round(number: int) -> None:
    """A round of the command line."""
    if number < 1:
        raise UserError(f"--round: rounds count from 1, not {number}")


def read_measurements(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a table of measurements.

    Raises:
        UserError: it is not one, or lacks a column.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype={"class": str})
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table: {error}") from None
    missing = [name for name in ["budget", "dataset", "strategy", "seed", *columns] if name not in frame]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; is it another kind of table?")
    return frame
