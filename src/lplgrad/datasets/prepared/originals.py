"""A listing of the files that a data set was prepared from, to notice later that they changed.

No file is opened: a file counts as unchanged while its name, its size and its time stay the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict, cast

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json

ORIGINALS = "originals.json"  # a listing, in the folder of the prepared data set
HIDDEN = (".", "__MACOSX")  # names of files and folders that begin like this are left out
# Files with these endings are images. Other files in a folder of images do not matter.
ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


def is_image(name: str) -> bool:
    """Whether a file is an image by its name."""
    return not name.startswith(HIDDEN) and Path(name).suffix.lower() in ENDINGS


class Listing(TypedDict):
    """What a listing keeps of the files.

    Attributes:
        files: how many there are.
        names_and_sizes, times: a digest of each.
    """

    files: int
    names_and_sizes: str
    times: str


def listing(path: Path) -> Listing:
    """List an archive, or the images below a folder; hidden files are left out and links are followed.

    Raises:
        OSError: a folder cannot be read.
    """
    names, times, count = hashlib.sha256(), hashlib.sha256(), 0
    for name, place in [(path.name, path)] if path.is_file() else _images_below(path):
        try:
            found = place.stat()
            size, time = found.st_size, found.st_mtime_ns
        except OSError:  # a link that leads nowhere
            size, time = -1, -1
        names.update(os.fsencode(name) + b"\0%d\n" % size)
        times.update(b"%d\n" % time)
        count += 1
    return {"files": count, "names_and_sizes": names.hexdigest(), "times": times.hexdigest()}


def _raise(error: OSError) -> None:
    raise error


def _images_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """The images below a folder with their names relative to it, in an order that follows from the names alone."""
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if not name.startswith(HIDDEN)) if real not in entered else []
        for file in (Path(place, name) for name in sorted(files) if real not in entered):
            if is_image(file.name):
                yield str(file.relative_to(folder)), file
        entered.add(real)


def read_listing(path: Path) -> Listing:
    """Read a listing.

    Raises:
        UserError: the file is not one.
    """
    found = read_json(path)
    sound = found.keys() == Listing.__required_keys__ and type(found["files"]) is int
    if not (sound and isinstance(found["names_and_sizes"], str) and isinstance(found["times"], str)):
        raise UserError(f"{path}: not a listing of files; delete it to go on with the images that were prepared")
    return cast(Listing, found)


def change(known: Listing, path: Path) -> str | None:
    """How the files at a path differ from an earlier listing of them; None if they do not, or are not there."""
    if not path.exists():
        return None  # whoever has prepared a data set may delete what it was prepared from
    found = listing(path)
    if found["files"] != known["files"]:
        return f"{found['files']:,} files, not {known['files']:,}"
    if found["names_and_sizes"] != known["names_and_sizes"]:
        return "other names or sizes"
    if found["times"] != known["times"]:
        return "other times, but the same names and sizes, as after a copy"
    return None
