"""A folder in which a person labels: ``labeled/<class>/``, ``unlabeled/`` and, if there is one, ``test/<class>/``."""

from __future__ import annotations

import re
from pathlib import Path

from lplgrad.datasets._folders import class_folders, files_below, folders_in, quoted, readable, report_loose_images
from lplgrad.machine.errors import UserError
from lplgrad.machine.log import say

NAMES = {"labeled": "labell?ed", "unlabeled": "unlabell?ed", "test": "test|testing"}


def parts(folder: Path) -> dict[str, Path]:
    """Return the top folders by the keys of ``NAMES``; empty without both labelled and unlabelled images.

    Raises:
        UserError: two folders have names of the same part.
    """
    found: dict[str, list[Path]] = {}
    for place in folders_in(folder):
        for part, pattern in NAMES.items():
            if re.fullmatch(pattern, place.name.casefold()):
                found.setdefault(part, []).append(place)
    if not {"labeled", "unlabeled"} <= found.keys():
        return {}
    for places in found.values():
        if len(places) > 1:
            raise UserError(f"{folder}: {quoted(places)} mean the same; merge them")
    return {part: places[0] for part, places in found.items()}


def report_others(folder: Path, used: dict[str, Path]) -> None:
    """Write to the log which folders and images beside the parts are not used."""
    if others := [place for place in folders_in(folder) if place not in used.values()]:
        say(f"warning: {folder}: passed over {quoted(others)}, beside {quoted(list(used.values()))}")
    report_loose_images(folder)


def images_by_class(folder: Path) -> dict[str, list[Path]]:
    """List the images below a folder by class. A class may be empty."""
    found = readable(folder, {name: files_below(place) for name, place in class_folders(folder).items()})
    report_loose_images(folder)
    return {name: list(files) for name, files in found.items()}


def images_below(folder: Path) -> list[Path]:
    """List the images at any depth below a folder."""
    return list(readable(folder, {"": files_below(folder)})[""])
