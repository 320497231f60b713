"""A listing of the files that a data set was prepared from, to detect later changes.

No file is opened: a file counts as unchanged while its name, size and time are the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json

ORIGINALS = "originals.json"  # a listing, in the folder of the prepared data set
# Names, in lower case, of files and folders that systems and programs make: they are neither classes nor images
JUNK = {
    "__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "lost+found", "$recycle.bin",
    "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip
JUNK_PREFIXES = (".", "SYNOPHOTO_THUMB")  # hidden files and folders such as .git, and the previews of a Synology disk
ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or is one that systems and programs make. It is then ignored."""
    return name.startswith(JUNK_PREFIXES) or name.lower() in JUNK


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image. Other files in a folder of images are ignored."""
    return not is_hidden(name) and Path(name).suffix.lower() in ENDINGS


def listing(path: Path) -> dict[str, int | str]:
    """Describe an archive, or the images below a folder: their number, and digests of names and sizes and of times."""
    names, times, count = hashlib.sha256(), hashlib.sha256(), 0
    for name, place in [(path.name, path)] if path.is_file() else _images_below(path):
        try:
            found = place.stat()
            size, time = found.st_size, found.st_mtime_ns
        except OSError:  # a broken link
            size, time = -1, -1
        names.update(os.fsencode(name) + b"\0%d\n" % size)
        times.update(b"%d\n" % time)
        count += 1
    return {"files": count, "names_and_sizes": names.hexdigest(), "times": times.hexdigest()}


def _raise(error: OSError) -> None:
    raise error


def _images_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the images below a folder with their names relative to it, in an order that depends on the names only."""
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for file in (Path(place, name) for name in sorted(files) if is_image(name)):
            yield str(file.relative_to(folder)), file


def change(earlier: Path, path: Path) -> str | None:
    """Return how the files at a path differ from an earlier listing; None if they are the same or were deleted."""
    known = read_json(earlier)
    if {key: type(value) for key, value in known.items()} != {"files": int, "names_and_sizes": str, "times": str}:
        raise UserError(f"{earlier}: not a listing of files; delete it to go on with the images that were prepared")
    if not path.exists():
        return None  # the originals may be deleted once they are prepared
    found = listing(path)
    if found["files"] != known["files"]:
        return f"{found['files']:,} files, not {known['files']:,}"
    if found["names_and_sizes"] != known["names_and_sizes"]:
        return "other names or sizes"
    if found["times"] != known["times"]:
        return "other times, but the same names and sizes, as after a copy"
    return None
