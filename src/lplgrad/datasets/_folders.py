"""Read a folder of images: its folders, its classes, and the images of each class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lplgrad.datasets._shared import class_name, report_alike
from lplgrad.datasets.prepared.kinds import NAMED, OPTIONAL, PLAIN, ending, is_hidden, is_image, kind, missing
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable
from lplgrad.machine.log import say

ClassFiles = dict[str, dict[Path, str]]  # by class: the path of each image, and its path without links


def check_listed_once(listings: list[ClassFiles]) -> None:
    """Refuse an image that links place in two classes or splits: its label or its split would be ambiguous."""
    seen: dict[str, Path] = {}
    for images in listings:
        for files in images.values():
            for path, real in files.items():
                other = seen.setdefault(real, path)
                if other != path:
                    raise UserError(
                        f"{printable(path)}: is the same file as {printable(other)} through a link, and an image may "
                        "be in one class and one split only; remove one of the two"
                    )


def listed(folder: Path) -> ClassFiles:
    """List the images below a folder by class, with the classes in the order of their names.

    Raises:
        UserError: a class has no images, or some images cannot be read before something is installed.
    """
    classes = class_folders(folder)
    report_loose_images(folder)
    images = readable(folder, {name: files_below(place) for name, place in classes.items()})
    for name, place in classes.items():
        if not images[name]:
            raise UserError(f"{place}: a class without images; place some there or remove the folder")
    return images


def readable(folder: Path, files: ClassFiles) -> ClassFiles:
    """Return those of some files that are images of a kind that is read. Images of other kinds are reported.

    Raises:
        UserError: some images cannot be read before something is installed.
    """
    images: ClassFiles = {name: {} for name in files}
    unread: dict[str, list[Path]] = {}  # images by their kind
    for name, below in files.items():
        for path, real in below.items():
            found = kind(path)
            if found in (NAMED, *PLAIN) or (found in OPTIONAL and missing(found) is None):
                images[name][path] = real
            elif found is not None:
                unread.setdefault(found, []).append(path)
    for found, paths in unread.items():
        if found in OPTIONAL:
            raise UserError(
                f"{folder}: {len(paths)} file(s) are {found} images, as {printable(paths[0])}, which need "
                f"{missing(found)}; or remove them"
            )
        say(
            f"warning: {folder}: passed over {len(paths)} image(s) of a kind that is not read ({found}), as "
            f"{printable(paths[0])}; convert them to PNG or TIFF to use them"
        )
    return images


def counted(folder: Path, used: list[Path]) -> dict[str, Any]:
    """Count the files below a folder by their endings, and write the counts to the log.

    Args:
        folder: of the data set.
        used: its images.

    Returns:
        The counts of images that are ``used``, and that are ``passed_over`` because they lie elsewhere or are of a kind
        that is not read, and of all ``other`` files.
    """
    found, taken = _below(folder)[0], set(used)
    if not taken <= found.keys():  # some have another path through a link
        reals = {os.path.realpath(path) for path in used}
        found = {path: real for path, real in found.items() if real not in reals}
    parts: dict[str, list[Path]] = {"used": used, "passed_over": [], "other": []}
    for path in found:
        if path not in taken:
            parts["passed_over" if is_image(path) else "other"].append(path)
    counts = {name: _by_ending(paths) for name, paths in parts.items()}
    said = {name: ", ".join(f"{count} {end}" for end, count in counts[name].items()) or "none" for name in counts}
    say(
        f"{folder}: images: {said['used']}; images passed over: {said['passed_over']}; other files passed over: "
        f"{said['other']}"
    )
    return counts


def _by_ending(paths: Iterable[Path]) -> dict[str, int]:
    """Count paths by their endings, in the order of these."""
    return dict(sorted(Counter(printable(ending(path)) or "without ending" for path in paths).items()))


def class_folders(folder: Path) -> dict[str, Path]:
    """Return the top folders by the names of their classes, in the order of the names."""
    found: dict[str, Path] = {}
    for place in folders_in(folder):
        try:
            place.name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{printable(place)}: the name of this class is not UTF-8; rename the folder") from None
        name = class_name(place.name)
        if name is None:
            raise UserError(f"{folder}: the name {place.name!a} of a class cannot be printed; rename the folder")
        if name in found:
            both = f"{found[name].name!a} and {place.name!a}"
            raise UserError(f"{folder}: the folders {both} have the same name in Unicode; merge them or rename one")
        found[name] = place
    report_alike(folder, found)
    return dict(sorted(found.items()))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder in the order of their names, without hidden ones."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    return [entry for entry in entries if not is_hidden(entry.name)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one. A broken link is not."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder in the order of their names, without hidden ones."""
    return [Path(entry) for entry in _entries(folder) if _is_folder(entry)]


def files_below(folder: Path) -> dict[Path, str]:
    """Return all files below a folder, except hidden ones, with their paths without links, in the order of their names.

    Links are followed. A file with several paths is listed once, if possible under a path without links.
    """
    found, repeated = _below(folder)
    if repeated:
        say(f"{folder}: passed over {len(repeated)} link(s) to images of the same class, as {printable(repeated[0])}")
    return found


def _below(folder: Path) -> tuple[dict[Path, str], list[Path]]:
    """Return the files as ``files_below`` does, and the links to files that are listed under another path."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    folders, linked_folders, linked_files = [folder], list[Path](), list[Path]()
    while folders or linked_folders:
        place = folders.pop(0) if folders else linked_folders.pop(0)
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(place):
            if _is_folder(entry):
                (linked_folders if entry.is_symlink() else folders).append(Path(entry))
            elif entry.is_symlink():
                linked_files.append(Path(entry))
            else:
                found[str(Path(real, entry.name))] = Path(entry)
    repeated = [path for path in sorted(linked_files) if found.setdefault(os.path.realpath(path), path) != path]
    return {
        path: real for real, path in sorted(found.items(), key=lambda item: item[1].relative_to(folder).parts)
    }, repeated


def report_loose_images(folder: Path) -> None:
    """Warn of images that lie directly in a folder and are therefore not used."""
    loose = [entry.name for entry in _entries(folder) if Path(entry).is_file() and is_image(Path(entry))]
    if loose:
        example = printable(loose[0])
        say(f"warning: {folder}: passed over {len(loose)} image(s) outside of the class folders, as {example}")


def quoted(folders: list[Path]) -> str:
    """Return the names of some folders, for a message."""
    names = ", ".join(f"'{printable(place.name)}'" for place in folders[:5])
    return names if len(folders) <= 5 else f"{names} and {len(folders) - 5} more"
