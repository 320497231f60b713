"""What lies in a folder of images: its folders, its classes, and the images of each class."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

from lplgrad.datasets.prepared.originals import HIDDEN, is_image
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable
from lplgrad.machine.log import say


def check_listed_once(listed: list[dict[str, dict[Path, str]]]) -> None:
    """No file may be listed twice through links: it would have two labels, or be learned from and tested on."""
    seen: dict[str, Path] = {}
    for images in listed:
        for files in images.values():
            for path, real in files.items():
                other = seen.setdefault(real, path)
                if other != path:
                    raise UserError(
                        f"{printable(path)}: is the same file as {printable(other)} through a link, and an image may "
                        "be in one class and one split only; remove one of the two"
                    )


def listed(folder: Path) -> dict[str, dict[Path, str]]:
    """The classes below a folder, in the order of their names, with the images of each as ``files_below`` tells them.

    Raises:
        UserError: a class has no image or a name that is not accepted.
        OSError: a folder cannot be read.
    """
    classes = _class_folders(folder)
    images: dict[str, dict[Path, str]] = {}
    tell_loose_images(folder)
    others: list[Path] = []
    for name, place in classes.items():
        files = files_below(place)
        images[name] = {path: real for path, real in files.items() if is_image(path.name)}
        others += [path for path in files if not is_image(path.name)]
        if not images[name]:
            raise UserError(f"{place}: a class without images; place some there or remove the folder")
    if others:
        say(
            f"{folder}: passed over {len(others)} file(s) that are no images by their names, as "
            f"{printable(others[0].name)}"
        )
    return images


def _class_folders(folder: Path) -> dict[str, Path]:
    """The top folders by the names of their classes, in the order of the names.

    Raises:
        UserError: a name is not text that can be printed, or two folders have the same name in Unicode.
    """
    found: dict[str, Path] = {}
    for place in folders_in(folder):
        try:
            place.name.encode()
        except UnicodeEncodeError:
            raise UserError(f"{printable(place)}: the name of this class is not UTF-8; rename the folder") from None
        # Some systems write an accent as a character of its own.
        name = unicodedata.normalize("NFC", place.name)
        kinds = {unicodedata.category(character) for character in name}
        if kinds & {"Cc", "Zl", "Zp"} or kinds <= {"Zs", "Cf"}:
            raise UserError(f"{folder}: the name {name!a} of a class cannot be printed; rename the folder")
        if name in found:
            both = f"{found[name].name!a} and {place.name!a}"
            raise UserError(f"{folder}: the folders {both} have the same name in Unicode; merge them or rename one")
        found[name] = place
    names = sorted(found)
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(name.casefold(), name)
        if other != name:
            both, differ = f"{other!r} and {name!r}", "in case only"
            if other.lower() != name.lower():  # as a ligature and its letters, which print alike
                both, differ = f"{other!a} and {name!a}", "only in characters that Unicode takes for equal without case"
            say(f"warning: {folder}: the classes {both} differ {differ}, and are kept apart")
    return {name: found[name] for name in names}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    return sorted(os.scandir(folder), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Also of a link to a folder. A link that leads nowhere is none."""
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones left out, in the order of their names."""
    return [Path(entry) for entry in _entries(folder) if not entry.name.startswith(HIDDEN) and _is_folder(entry)]


def files_below(folder: Path) -> dict[Path, str]:
    """All files below a folder, links followed, hidden ones left out, in the order of their names.

    What can be reached in several ways is listed once, by a way without links if there is one.

    Returns:
        The files, with the real path of each.

    Raises:
        OSError: a folder cannot be read.
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
            if entry.name.startswith(HIDDEN):
                continue
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


def tell_loose_images(folder: Path) -> None:
    """Say in the log which images lie beside the folders that are used."""
    loose = [entry.name for entry in _entries(folder) if is_image(entry.name) and Path(entry).is_file()]
    if loose:
        say(f"{folder}: passed over {len(loose)} image(s) outside of the class folders, as {printable(loose[0])}")


def quoted(folders: list[Path]) -> str:
    """The names of some folders, for a message."""
    names = ", ".join(f"'{printable(place.name)}'" for place in folders[:5])
    return names if len(folders) <= 5 else f"{names} and {len(folders) - 5} more"
