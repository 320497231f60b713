"""Pages of text and tables that stand alone: no script, no other file."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lplgrad.machine.errors import UserError

Cell = str
TEXT, STRONG = "text", "strong"
FOLDED_HEAD = ("source", "what", "where", "seeds", "effect", "in percent", "95 % interval", "verdict")


@dataclass(frozen=True)
class Part:
    """A part of a page: a heading, paragraphs, and a table if it has rows.

    Attributes:
        heading: above it; empty for none.
        text: paragraphs.
        head: cells of the table's header row.
        rows: cells of its rows; a cell's second line is set smaller.
        strong: positions (row, column) to be set in bold.
        level: of the heading, 2 or 3.
        folded: rows of a second table, shown on a click.
        folded_head: cells of its header row.
        folded_title: what is clicked on; the number of cases without one.
        text_columns: how many columns from the left are text, and so set flush left.
        links: files beside the page, to list.
    """

    heading: str = ""
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    strong: frozenset[tuple[int, int]] = frozenset()
    level: int = 2
    folded: Sequence[Sequence[Cell]] = ()
    folded_head: Sequence[str] = FOLDED_HEAD
    folded_title: str = ""
    text_columns: int = 1
    links: Sequence[str] = ()


def document(title: str, parts: list[Part]) -> str:
    """The page."""
    body = "".join(_part(part) for part in parts)
    return (
        "<!doctype html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


def _part(part: Part) -> str:
    heading = f"<h{part.level}>{html.escape(part.heading)}</h{part.level}>\n" if part.heading else ""
    text = "".join(f"<p>{html.escape(paragraph)}</p>\n" for paragraph in part.text if paragraph)
    links = "".join(f"<li><a href='{html.escape(name)}'>{html.escape(name)}</a></li>\n" for name in part.links)
    table = _table(part) if part.rows else ""
    return heading + text + (f"<ul>\n{links}</ul>\n" if links else "") + table + _folded(part)


def _folded(part: Part) -> str:
    if not part.folded:
        return ""
    table = _table(Part(head=part.folded_head, rows=part.folded))
    title = html.escape(part.folded_title) or f"all {len(part.folded)} cases"
    return f"<details><summary>{title}</summary>\n{table}</details>\n"


def _table(part: Part) -> str:
    head = "".join(_cell("th", cell, [TEXT] * (column < part.text_columns)) for column, cell in enumerate(part.head))
    rows = []
    for number, row in enumerate(part.rows):
        cells = (
            _cell("td", cell, [TEXT] * (column < part.text_columns) + [STRONG] * ((number, column) in part.strong))
            for column, cell in enumerate(row)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>\n")
    return f"<div><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table></div>\n"


def _cell(tag: str, cell: Cell, classes: list[str]) -> str:
    first, _, second = (html.escape(line) for line in cell.partition("\n"))
    below = f"<br><small>{second}</small>" if second else ""
    attribute = f" class='{' '.join(classes)}'" if classes else ""
    return f"<{tag}{attribute}>{first}{below}</{tag}>"


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2rem auto; max-width: 76rem;
       padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.12rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin-top: 1.5rem; }
p { max-width: 52rem; } div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .3rem .6rem; text-align: right; vertical-align: top; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
.text { text-align: left; white-space: normal; min-width: 8rem; }
td:last-child, th:last-child { white-space: normal; }
thead th { border-top: 2px solid #1b1b1b; border-bottom: 1px solid #1b1b1b; font-weight: 600; }
tbody tr:last-child td { border-bottom: 2px solid #1b1b1b; }
tbody tr:nth-child(even) { background: #f5f5f5; }
summary { margin: .6rem 0; cursor: pointer; color: #444; }
small { color: #444; }
.strong { font-weight: 700; }
"""


def check_endings(paths: list[Path], endings: tuple[str, ...]) -> None:
    """Refuse an output whose name does not end in one of the known formats."""
    for path in paths:
        if path.suffix not in endings:
            raise UserError(f"--output: {path}: the name must end in {' or '.join(endings)}")
