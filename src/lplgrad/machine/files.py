"""Write files atomically: each is written to a temporary file and then renamed. A killed job leaves no partial file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lplgrad.machine.errors import UserError

PRIVATE_FOLDER = Path("/tmp") / f"lplgrad-{os.getuid()}"


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path. If the block succeeds, its file replaces ``path``; otherwise it is deleted."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder, but a file must be written here; move it away")
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{_host()}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        # If the disk is full, the error of a write names no file. NumPy's own error has no strerror.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        remove(temporary)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files that killed processes of this machine left for the same path."""
    for entry in path.parent.iterdir():
        found = re.fullmatch(rf"\.{re.escape(path.name)}\.{_host()}\.(\d+)\.tmp", entry.name)
        if found and not _runs(int(found[1])):
            entry.unlink(missing_ok=True)


def _runs(number: int) -> bool:
    """Return whether a process exists and has not ended. One that nobody waited for exists after its end (a zombie)."""
    try:
        os.kill(number, 0)  # only checks that the process exists
        status = Path(f"/proc/{number}/stat")
        return not status.exists() or status.read_text().rpartition(") ")[2][:1] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except (PermissionError, OverflowError):
        return True


def _host() -> str:
    """Return this machine's name in letters and digits. Process numbers are valid on one machine only."""
    return re.sub(r"\W", "", platform.node())[:40] or "here"


def remove(path: Path) -> None:
    """Remove a file if it exists. A read-only disk is an error only if the file exists."""
    if path.exists():
        path.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file. If the block succeeds, it replaces ``path``; otherwise it is deleted."""
    with beside(path) as temporary, temporary.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, with the keys in the given order. NaN raises ValueError, because JSON has no NaN."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def printable(name: Path | str) -> str:
    """Return a name as one line of UTF-8. Escapes such as ``\\xe9`` replace invalid bytes and control characters."""
    text = str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda found: ascii(found[0])[1:-1], text)


def escaped(path: str) -> str:
    r"""Return a path as one line of UTF-8 from which its bytes can be recovered.

    A backslash is written twice. Control characters, line separators and bytes that are not UTF-8 are written as
    ``\xNN``, once for each byte.
    """
    special = r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]"
    return re.sub(
        special,
        lambda found: "".join(f"\\x{byte:02x}" for byte in found[0].encode("utf-8", "surrogateescape")),
        path.replace("\\", "\\\\"),
    )


def unescaped(name: str) -> str:
    r"""Return the path that ``escaped`` wrote. Bytes that are not UTF-8 become surrogates, as in ``os.fsdecode``."""
    found = re.sub(
        rb"\\(\\|x[0-9a-f]{2})",
        lambda found: b"\\" if found[1] == b"\\" else bytes.fromhex(found[1][1:].decode()),
        os.fsencode(name),
    )
    return os.fsdecode(found)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from JSON.

    Raises:
        UserError: the file is not JSON, or the JSON is not a mapping.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path}: not JSON, or cut off; delete it and run again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value


def private_folder() -> Path:
    """Return this user's folder of locks and sockets on this machine, which does not depend on TMPDIR.

    Raises:
        UserError: somebody else made it.
    """
    PRIVATE_FOLDER.mkdir(mode=0o700, exist_ok=True)
    found = PRIVATE_FOLDER.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise UserError(
            f"{PRIVATE_FOLDER}: is not yours; have it removed, since leases of GPUs and sockets are kept there"
        )
    return PRIVATE_FOLDER
