"""A listing of the files that a data set was prepared from, to detect later changes.

A file counts as unchanged while its name, size and time are the same. A file is opened only if its ending is not that
of an image: its first bytes then tell whether it is one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lplgrad.datasets.prepared.kinds import is_hidden, is_image
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import read_json
from lplgrad.machine.log import say

ORIGINALS = "originals.json"  # a listing, in the folder of the prepared data set
RULE = 2  # how files are chosen for a listing; listings of rule 1 do not say so
# Of rule 1
EARLIER_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
EARLIER_HIDDEN = (".", "__MACOSX")

Listing = dict[str, int | str]


def listing(path: Path) -> Listing:
    """Describe an archive, or the images below a folder: their number, and digests of names and sizes and of times."""
    return {**_described(path, is_hidden, is_image), "rule": RULE}


def _earlier_listing(path: Path) -> Listing:
    """Describe the same by rule 1."""
    return _described(
        path,
        lambda name: name.startswith(EARLIER_HIDDEN),
        lambda place: place.suffix.lower() in EARLIER_ENDINGS,
    )


def _described(path: Path, hidden: Callable[[str], bool], chosen: Callable[[Path], bool]) -> Listing:
    names, times, count = hashlib.sha256(), hashlib.sha256(), 0
    files: Iterable[tuple[str, Path]] = [(path.name, path)] if path.is_file() else _below(path, hidden, chosen)
    for name, place in files:
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


def _below(folder: Path, hidden: Callable[[str], bool], chosen: Callable[[Path], bool]) -> Iterator[tuple[str, Path]]:
    """Yield chosen files below a folder with their names relative to it, in an order that depends on the names only."""
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not hidden(name))
        for file in (Path(place, name) for name in sorted(files) if not hidden(name)):
            if chosen(file):
                yield str(file.relative_to(folder)), file


def change(earlier: Path, path: Path) -> str | None:
    """Return how the files at a path differ from an earlier listing; None if they are the same or were deleted.

    A listing of an earlier version chose files by another rule. It is compared by that rule, so that a data set stays
    valid while its files do. If this version would choose other files, a warning says so.
    """
    known = read_json(earlier)
    types = {key: type(value) for key, value in known.items() if key != "rule"}
    if types != {"files": int, "names_and_sizes": str, "times": str} or known.get("rule", RULE) != RULE:
        raise UserError(f"{earlier}: not a listing of files; delete it to go on with the images that were prepared")
    if not path.exists():
        return None  # the originals may be deleted once they are prepared
    found = listing(path)
    if "rule" not in known and found["names_and_sizes"] != known["names_and_sizes"]:
        now, found = found["files"], _earlier_listing(path)
        if found == known:
            say(
                f"warning: {earlier.parent}: an earlier version prepared it and took {found['files']:,} files of {path}"
                f" for images, but this version finds {now:,}; to use those, run Snakemake with --forcerun "
                f"{earlier.with_name('dataset.json')}, which runs all rounds of the data set again"
            )
    if found["files"] != known["files"]:
        return f"{found['files']:,} files, not {known['files']:,}"
    if found["names_and_sizes"] != known["names_and_sizes"]:
        return "other names or sizes"
    if found["times"] != known["times"]:
        return "other times, but the same names and sizes, as after a copy"
    return None
