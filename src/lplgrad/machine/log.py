"""Progress of a long command: a bar on a terminal, plain lines everywhere else (a job's log keeps no bar's debris)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def say(line: str) -> None:
    """Write a line to standard error. A log that cannot be written, on a full disk, ends no job."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def track(items: Iterable[T], total: int, what: str, line: Callable[[T], str] | None = None) -> Iterator[T]:
    """Yield the items, showing how far it got.

    Args:
        items: what is worked on.
        total: how many there are.
        what: one word or two for the bar.
        line: tells of an item: behind the bar on a terminal, as a line of its own elsewhere. Without it, elsewhere
            ten lines at most are written.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(items, total=total, desc=what, leave=False, dynamic_ncols=True) as bar:
            for item in bar:
                if line is not None:
                    bar.set_postfix_str(line(item), refresh=False)
                yield item
        return
    for number, item in enumerate(items, start=1):
        if line is not None:
            say(line(item))
        elif number * 10 // total > (number - 1) * 10 // total:
            say(f"{what} {number}/{total}")
        yield item
