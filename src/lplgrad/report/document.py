"""Pages of text and tables in one file, without scripts; ``page.html`` is their template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from lplgrad.machine.errors import UserError
from lplgrad.report.wording import count, p_value

FOLDED_HEAD = ("source", "what", "where", "seeds", "effect", "in percent", "95 % interval", "verdict")


@dataclass(frozen=True)
class Part:
    """A part of a page. Each of its elements is left out if it is empty.

    Attributes:
        heading: of the part.
        text: paragraphs.
        head: cells of the table's header row.
        rows: cells of the table's rows; the second line of a cell is set smaller.
        strong: positions (row, column) in bold.
        level: of the heading, 2 or 3.
        folded: rows of a second table, which a click opens.
        folded_head: cells of its header row.
        folded_title: what to click on; by default the number of cases.
        text_columns: how many columns from the left are text, set flush left.
        items: lines of a list.
        links: files beside the page, listed as links.
    """

    heading: str = ""
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    strong: frozenset[tuple[int, int]] = frozenset()
    level: int = 2
    folded: Sequence[Sequence[str]] = ()
    folded_head: Sequence[str] = FOLDED_HEAD
    folded_title: str = ""
    text_columns: int = 1
    items: Sequence[str] = ()
    links: Sequence[str] = ()


def document(title: str, parts: Sequence[Part]) -> str:
    """Return the page as html."""
    return _template(Path(__file__).with_name("page.html")).render(title=title, parts=parts).lstrip()


def paragraphs(module: str, name: str, **values: Any) -> tuple[str, ...]:
    """Return the paragraphs of a text.

    Args:
        module: ``__file__`` of a module; the texts are in ``texts.j2`` beside it.
        name: the macro there.
        values: its arguments.
    """
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
