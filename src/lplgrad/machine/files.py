"""Files written whole: each beside its place and then renamed, so that a job that is killed leaves no half of one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lplgrad.machine.errors import UserError


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of ``path`` when the block ends, and vanishes when it fails."""
    if path.is_dir():
        raise UserError(f"{path}: a directory stands where a file is to be written; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_remains(path)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        # A write to a full disk names no file.
        # numpy's says only what it could not do.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        remove(temporary)


def _remove_remains(path: Path) -> None:
    """Remove what processes of this machine that were killed while they wrote the same file have left beside it."""
    for entry in path.parent.iterdir():
        found = re.fullmatch(rf"\.{re.escape(path.name)}\.{_host()}\.(\d+)\.tmp", entry.name)
        if found and not _is_alive(int(found[1])):
            entry.unlink(missing_ok=True)


def _host() -> str:
    """This machine's name, of letters and digits: process numbers mean something on it alone."""
    return re.sub(r"\W", "", platform.node())[:40] or "here"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def remove(path: Path) -> None:
    """Remove a file if it is there; on a read-only disk even what is not there cannot be removed."""
    if path.exists():
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` when the block ends, and vanishes when it fails."""
    with beside(path) as temporary, temporary.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, keys in the order given. NaN is an error: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def printable(name: Path | str) -> str:
    """A name as one line of UTF-8: bytes that are not UTF-8 and control characters become escapes, as ``\\xe9``."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: ascii(found[0])[1:-1], text)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from JSON.

    Raises:
        UserError: the file is not JSON, or not a mapping.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON, or cut off; delete it and run again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
