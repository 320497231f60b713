"""What a user can mend: errors that are told in one line, without a traceback."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something a user did or a file that is not what it should be.

    The message is one line: what is wrong, where, and what to do. What it quotes from a file may be anything: it breaks
    no line, commands no terminal and fills no screen.
    """

    def __init__(self, message: str) -> None:
        line = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", message)
        super().__init__(line if len(line) <= 1000 else f"{line[:700]} ... {line[-250:]}")


class DownloadError(UserError):
    """What a data set is made from could not be downloaded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name: the known one it resembles, or all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
