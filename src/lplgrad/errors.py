"""What a user can mend: errors that are told in one line, without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something a user did or a file that is not what it should be.

    The message is one line: what is wrong, where, and what to do.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that follows an unknown name: the known one it resembles, or all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
