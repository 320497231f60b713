"""Keep the predictions of the batches that are done, so that ``lplgrad predict`` continues after a kill."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import write_text

FORMAT = "lplgrad predictions 1"


class Listed(NamedTuple):
    """An image to predict."""

    name: str  # in the table
    path: Path


class Record(NamedTuple):
    """The predictions of a batch."""

    stamp: str  # of its files when they were read
    rows: str  # of the table, a line for each image that could be read
    unreadable: list[list[str]]  # the name of each other image, and why it could not be read


def stamp_of(batch: Sequence[Listed]) -> str:
    """Return a digest of the sizes and times of some files. No file is opened."""
    sha256 = hashlib.sha256()
    for image in batch:
        try:
            found = image.path.stat()
            sha256.update(b"%d %d\n" % (found.st_size, found.st_mtime_ns))
        except OSError:
            sha256.update(b"missing\n")
    return sha256.hexdigest()[:16]


class Journal:
    """The file of the batches that are done.

    Args:
        path: of the file.
        about: what the predictions depend on.
        batches: all images.

    Attributes:
        places: where in the file a line of each batch that is done begins, by the number of the batch.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], batches: Sequence[Sequence[Listed]]) -> None:
        self.path = path
        self.header = {"format": FORMAT, **about}
        self.batches = batches
        self.places: dict[int, int] = {}

    def opened(self) -> IO[bytes]:
        """Open the file, find the batches that are done, and cut off what was half written.

        Raises:
            UserError: it is the file of other predictions.
        """
        if not self.path.exists():
            write_text(self.path, json.dumps(self.header) + "\n")
        file = self.path.open("r+b")
        try:
            self._check(file.readline())
            while (line := file.readline()) and (found := self._parsed(line)) is not None:
                number, record = found
                if record.stamp == stamp_of(self.batches[number]):
                    self.places[number] = file.tell() - len(line)
            if line:
                file.truncate(file.tell() - len(line))
            file.seek(0, os.SEEK_END)
        except BaseException:
            file.close()
            raise
        return file

    def add(self, file: IO[bytes], number: int, record: Record) -> None:
        """Append a batch."""
        place = file.tell()
        try:
            file.write(json.dumps([number, *record]).encode() + b"\n")
            file.flush()
        except OSError as error:  # the error of a write names no file
            with suppress(OSError):
                file.close()  # which writes once more, and fails
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.places[number] = place

    def records(self, file: IO[bytes]) -> Iterator[Record]:
        """Read all batches again, in the order of the images."""
        for number in range(len(self.batches)):
            file.seek(self.places[number])
            found = self._parsed(file.readline())
            assert found is not None
            yield found[1]

    def _check(self, first: bytes) -> None:
        try:
            found = json.loads(first)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UserError(f"{self.path}: not a file of unfinished predictions, but those are kept here; move it away")
        if other := [key for key, value in self.header.items() if found.get(key) != value]:
            raise UserError(
                f"{self.path}: holds unfinished predictions with another {' and another '.join(other)}; finish them "
                "with the command that began them, choose another --output, or delete the file"
            )

    def _parsed(self, line: bytes) -> tuple[int, Record] | None:
        """Return the number and the predictions of a line; None if it is not whole."""
        try:
            number, *rest = json.loads(line) if line.endswith(b"\n") else []
            return (number, Record(*rest)) if 0 <= number < len(self.batches) else None
        except (ValueError, TypeError, RecursionError):
            return None
