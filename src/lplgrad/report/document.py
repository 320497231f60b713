"""Pages of text and tables in one file, without scripts; ``page.html`` is their template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from lplgrad.machine.errors import UserError
from lplgrad.report.wording import DASH, count, p_value

FOLDED_HEAD = ("source", "what", "where", "seeds", "effect", "in percent", "95 % interval", "verdict")


class Strong(str):
    """A cell in bold."""

    __slots__ = ()


def strong_if(condition: bool | None, text: str) -> str:
    """Make a cell bold under a condition."""
    return Strong(text) if condition else text


@dataclass(frozen=True)
class Picture:
    """A picture on a page."""

    source: str  # a data URL
    alt: str  # what it shows, for who cannot see it
    caption: Sequence[str] = ()  # lines below it
    wide: bool = False  # a figure, shown in its own size; otherwise one of many small images


@dataclass(frozen=True)
class Part:
    """A part of a page. Each of its elements is left out if it is empty."""

    heading: str = ""
    text: Sequence[str] = ()  # paragraphs
    head: Sequence[str] = ()  # cells of the table's header row
    rows: Sequence[Sequence[str]] = ()  # cells of the table's rows; the second line of a cell is set smaller
    level: int = 2  # of the heading
    folded: Sequence[Sequence[str]] = ()  # rows of a second table, which a click opens
    folded_head: Sequence[str] = FOLDED_HEAD
    folded_title: str = ""  # what to click on; by default the number of cases
    text_columns: int = 1  # how many columns from the left are text, set flush left
    items: Sequence[str] = ()  # lines of a list
    links: Sequence[str] = ()  # files beside the page, listed as links
    pictures: Sequence[Picture] = ()  # below the table

    @property
    def strong(self) -> set[tuple[int, int]]:
        """The row and column of every bold cell."""
        cells = ((place, column, cell) for place, row in enumerate(self.rows) for column, cell in enumerate(row))
        return {(place, column) for place, column, cell in cells if isinstance(cell, Strong)}


def crossed(cells: Mapping[Any, str], rows: Mapping[Any, str], columns: Mapping[Any, str]) -> list[tuple[str, ...]]:
    """Lay out cells by their keys (row, column); rows and columns are given as key and title. A missing cell is a dash.

    Returns:
        The rows of a table, with the titles of the rows in front.
    """
    return [(title, *(cells.get((row, column), DASH) for column in columns)) for row, title in rows.items()]


def document(title: str, parts: Sequence[Part]) -> str:
    """Return the page as html."""
    return _template(Path(__file__).with_name("page.html")).render(title=title, parts=parts).lstrip()


def paragraphs(module: str, name: str, **values: Any) -> tuple[str, ...]:
    """Return the paragraphs of the macro ``name`` in the file ``texts.j2`` beside a module, given as ``__file__``."""
    text = getattr(_template(Path(module).with_name("texts.j2")).module, name)(**values)
    return tuple(" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip())


@cache
def _template(path: Path) -> Template:
    environment = Environment(
        autoescape=path.suffix == ".html", undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(count=count, p_value=p_value)
    return environment.from_string(path.read_text(encoding="utf-8"))


def check_endings(paths: list[Path], endings: tuple[str, ...]) -> None:
    """Refuse an output whose name does not end in one of the known formats."""
    for path in paths:
        if path.suffix not in endings:
            raise UserError(f"--output: {path}: the name must end in {' or '.join(endings)}")
