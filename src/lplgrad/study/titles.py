"""What figures, tables and messages call strategies and data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # study.settings imports this module
    from lplgrad.study.settings import Dataset, Strategy


def shown_title(rows: Mapping[str, Strategy] | Mapping[str, Dataset], name: str) -> str:
    """Return the title of a strategy or a data set on one line, or its name if it has no title."""
    return " ".join((rows[name].title or name).split())
