"""Unpack untrusted archives of images: only files and folders, and only below the target."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say

LONGEST = 1024  # characters of a member's name
# UnicodeDecodeError: a name that the archive declares as UTF-8 is not UTF-8.
BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, UnicodeDecodeError)


class _Member(NamedTuple):
    """A member of an archive."""

    name: str  # with slashes
    kind: str  # ``file``, ``folder`` or another kind
    size: int  # in bytes
    open: Callable[[], IO[bytes] | None]
    source: Path | None = None  # the unpacked file that a hard link repeats


def unpack(path: Path, target: Path) -> None:
    """Unpack a .zip, or a .tar with any compression, into an empty folder.

    Symbolic links are refused, because they can lead out of the target. A hard link becomes a copy of the earlier file
    of the same archive that it names. Permissions and owners are not restored.

    Raises:
        UserError: the archive is broken or encrypted, contains anything but files and folders, would write outside
            of the target, or would fill the disk.
        OSError: the target cannot be written.
    """
    try:
        members = _of_zip(path) if zipfile.is_zipfile(path) else _of_tar(path, target)
        free, needed = shutil.disk_usage(target).free, 0
        with closing(members):
            for member in members:
                needed += member.size
                if needed > free:
                    raise UserError(
                        f"{path}: unpacks to {needed:,} bytes or more, and {free:,} are free in {target.parent}; make "
                        "room, or set data_dir to a larger disk"
                    )
                _write(path, member, target)
    except BROKEN as error:
        raise UserError(f"{path}: not a whole archive ({error})") from None
    except RuntimeError as error:  # the archive needs a password or an unsupported compression
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise UserError(f"{path}: not a whole archive ({error})") from None


def _of_zip(path: Path) -> Generator[_Member]:
    with zipfile.ZipFile(path) as archive:
        guessed = [info.filename for info in archive.infolist() if _name_of(info)[1]]
        if guessed:
            say(
                f"warning: {path}: does not say how {len(guessed)} name(s) are encoded; they are read as code page "
                f"437, as {guessed[0]!a}"
            )
        for info in archive.infolist():
            plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            # The standard prescribes slashes, but some programs of Windows write backslashes.
            name = _name_of(info)[0].replace("\\", "/")
            kind = "folder" if name.endswith("/") else "file" if plain else "link or device"
            yield _Member(name, kind, info.file_size, partial(archive.open, info))


def _name_of(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """Return the name of a member, and whether its encoding is a guess.

    If the archive does not declare UTF-8, the standard prescribes code page 437. But macOS writes UTF-8 undeclared.
    """
    declared = info.flag_bits & 0x800 or info.filename.isascii()
    try:
        return info.filename if declared else info.filename.encode("cp437").decode(), False
    except UnicodeError as error:  # it cannot be encoded if Python did not decode it as code page 437
        return info.filename, isinstance(error, UnicodeDecodeError)


def _of_tar(path: Path, target: Path) -> Generator[_Member]:
    sizes: dict[PurePosixPath, int] = {}  # of the files so far
    with tarfile.open(path) as archive:
        for info in archive:
            name = PurePosixPath(info.name)
            if info.islnk():
                linked = PurePosixPath(info.linkname)
                if linked not in sizes:
                    raise UserError(
                        f"{path}: {info.name!r} is a hard link to {info.linkname!r}, which is no file before it"
                    )
                source = target / linked
                sizes[name] = sizes[linked]
                yield _Member(info.name, "file", sizes[linked], partial(_bytes_of, source), source)
                continue
            if info.isreg():
                sizes[name] = info.size
            kind = "folder" if info.isdir() else "file" if info.isreg() else "link or device"
            yield _Member(info.name, kind, info.size, partial(archive.extractfile, info))


def _bytes_of(path: Path) -> IO[bytes]:
    return path.open("rb")


def _write(path: Path, member: _Member, target: Path) -> None:
    name, place = member.name, target / member.name
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or re.match("[A-Za-z]:/", name):
        raise UserError(f"{path}: contains {name!r}, which would be written outside of its folder")
    if "\0" in name:
        raise UserError(f"{path}: contains {name!a}, which cannot be the name of a file")
    if len(name) > LONGEST:
        raise UserError(f"{path}: contains a name of {len(name):,} characters, {name[:40]!r}...")
    if member.kind == "folder":
        place.mkdir(parents=True, exist_ok=True)
        return
    opened = member.open() if member.kind == "file" else None
    if opened is None:
        raise UserError(f"{path}: {name!r} is a {member.kind}; only files and folders are unpacked")
    place.parent.mkdir(parents=True, exist_ok=True)
    if member.source is not None and place.exists() and place.samefile(member.source):
        opened.close()  # GNU tar links a file to itself if it is given twice, and a disk may ignore case
        return
    with opened, place.open("wb") as file:
        try:
            shutil.copyfileobj(opened, file, 1 << 20)
        except OSError as error:
            if error.errno is None:  # the archive is broken, not the disk
                raise
            raise OSError(error.errno, os.strerror(error.errno), str(place)) from None
