"""Errors that the user can correct. The program prints them as one line, without a traceback."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user, or a file with unexpected contents.

    The message is one line: what is wrong, where, and what to do. Control characters and excess length are removed.
    """

    def __init__(self, message: str) -> None:
        line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", message)
        super().__init__(line if len(line) <= 1000 else f"{line[:700]} ... {line[-250:]}")


class DownloadError(UserError):
    """The files of a data set could not be downloaded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for an unknown name: the known name that resembles it, or all known names."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
