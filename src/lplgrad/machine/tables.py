"""Read tables that people save from spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection
from pathlib import Path

from lplgrad.machine.errors import UserError, nearest

DELIMITERS = (",", ";", "\t")
SEPARATOR = re.compile("sep=", re.IGNORECASE)  # the first line of some spreadsheets


def read_table(path: Path, columns: Collection[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a table whose first line names its columns. Other columns may stand beside those that are needed.

    Lines may end as on any system, a byte order mark may precede them, and commas, semicolons or tabs may separate the
    cells: spreadsheets write all of these. White space around a cell is removed. Empty lines, and a first line such as
    ``sep=;``, are skipped. The names of the needed columns may be in capitals.

    Args:
        path: the file.
        columns: the names that must be among the columns.

    Returns:
        Each row as its line number and its cells by column.

    Raises:
        UserError: the file is no such table, or a row has more or fewer cells than the first line.
    """
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as 'CSV UTF-8'") from None
    header = next((line for line in text.splitlines() if line.strip() and not SEPARATOR.match(line)), "")
    delimiter = max(DELIMITERS, key=header.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({error})") from None
    lines = [(number, row) for number, row in lines if any(row) and not (number <= 2 and SEPARATOR.match(row[0]))]
    names = [name.casefold() if name.casefold() in columns else name for name in lines[0][1]] if lines else []
    for name in columns:
        if name not in names:
            raise UserError(f"{path}: no column {name!r} in the first line ({nearest(name, names)})")
    if repeated := [name for name in columns if names.count(name) > 1]:
        raise UserError(f"{path}: two columns are named {repeated[0]!r}; remove one of them")
    found = []
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise UserError(f"{path}: line {number}: {len(row)} cells, but the first line has {len(names)}")
        found.append((number, dict(zip(names, row, strict=True))))
    return found
