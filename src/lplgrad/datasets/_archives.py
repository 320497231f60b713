"""Archives of images, unpacked without trusting them: plain files and folders alone, each below the target."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say

LONGEST = 1024  # characters of a member's name
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,  # a name that is said to be UTF-8, and is not
)


@dataclass(frozen=True)
class _Member:
    """What an archive holds.

    Attributes:
        name: as it stands in the archive.
        kind: ``file``, ``folder``, or what else it is.
        size: of a file, in bytes.
        open: for reading.
    """

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(path: Path, target: Path) -> None:
    """Unpack a .zip, or a .tar however it is compressed, into an empty folder.

    Nothing of what Python's own extraction does for the rights, owners and links of members is needed for images, and
    links are how archives escape from it: so they are refused.

    Raises:
        UserError: the archive is broken or encrypted, holds something else than files and folders, would write outside
            of the target, or would fill the disk.
        OSError: the target cannot be written.
    """
    try:
        members = _of_zip(path) if zipfile.is_zipfile(path) else _of_tar(path)
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
    except RuntimeError as error:  # a password is asked for
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
            mode = info.external_attr >> 16
            plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
            kind = "folder" if info.is_dir() else "file" if plain else "link or device"
            yield _Member(_name_of(info)[0], kind, info.file_size, partial(archive.open, info))


def _name_of(info: zipfile.ZipInfo) -> tuple[str, bool]:
    """The name of a member, and whether its encoding is a guess.

    A name is UTF-8 if the archive says so, else code page 437 by the standard. macOS writes UTF-8 and does not say so.
    """
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename, False
    try:
        return info.filename.encode("cp437").decode(), False
    except UnicodeEncodeError:  # was not read as code page 437
        return info.filename, False
    except UnicodeDecodeError:
        return info.filename, True


def _of_tar(path: Path) -> Generator[_Member]:
    with tarfile.open(path) as archive:
        for info in archive:
            kind = "folder" if info.isdir() else "file" if info.isreg() else "link or device"
            yield _Member(info.name, kind, info.size, partial(archive.extractfile, info))


def _write(path: Path, member: _Member, target: Path) -> None:
    place = PurePosixPath(member.name)
    if place.is_absolute() or ".." in place.parts:
        raise UserError(f"{path}: holds {member.name!r}, which would be written outside of its folder")
    if "\0" in member.name:
        raise UserError(f"{path}: holds {member.name!a}, which cannot be the name of a file")
    if len(member.name) > LONGEST:
        raise UserError(f"{path}: holds a name of {len(member.name):,} characters, {member.name[:40]!r}...")
    if member.kind == "folder":
        (target / place).mkdir(parents=True, exist_ok=True)
    elif member.kind == "file":
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        opened = member.open()
        assert opened is not None
        with opened, (target / place).open("wb") as file:
            try:
                shutil.copyfileobj(opened, file, 1 << 20)
            except OSError as error:
                if error.errno is None:  # of the archive
                    raise
                raise OSError(error.errno, os.strerror(error.errno), str(target / place)) from None
    else:
        raise UserError(f"{path}: {member.name!r} is a {member.kind}; only files and folders are unpacked")
