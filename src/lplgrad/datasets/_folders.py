"""Read a folder of images: its folders, its classes, and the images of each class."""

from __future__ import annotations

import os
from pathlib import Path

from lplgrad.datasets._shared import class_name, report_alike
from lplgrad.datasets.prepared.originals import is_hidden, is_image
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
    """List the images below a folder by class, with the classes in the order of their names."""
    images: ClassFiles = {}
    others: list[Path] = []
    classes = class_folders(folder)
    report_loose_images(folder)
    for name, place in classes.items():
        files = files_below(place)
        images[name] = {path: real for path, real in files.items() if is_image(path.name)}
        others += [path for path in files if not is_image(path.name)]
        if not images[name]:
            raise UserError(f"{place}: a class without images; place some there or remove the folder")
    if others:
        example = printable(others[0].name)
        say(f"{folder}: passed over {len(others)} file(s) whose names are not those of images, as {example}")
    return images


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
    if repeated:
        say(f"{folder}: passed over {len(repeated)} link(s) to images of the same class, as {printable(repeated[0])}")
    return {path: real for real, path in sorted(found.items(), key=lambda item: item[1].relative_to(folder).parts)}


def report_loose_images(folder: Path) -> None:
    """Write to the log which images lie directly in a folder and are therefore not used."""
    loose = [entry.name for entry in _entries(folder) if is_image(entry.name) and Path(entry).is_file()]
    if loose:
        say(f"{folder}: passed over {len(loose)} image(s) outside of the class folders, as {printable(loose[0])}")


def quoted(folders: list[Path]) -> str:
    """Return the names of some folders, for a message."""
    names = ", ".join(f"'{printable(place.name)}'" for place in folders[:5])
    return names if len(folders) <= 5 else f"{names} and {len(folders) - 5} more"
