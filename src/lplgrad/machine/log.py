"""Progress of a long command: a bar on a terminal, and plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def say(line: str) -> None:
    """Write a line to standard error. A failure to write (a full disk) does not abort the job."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def track(items: Iterable[T], total: int, what: str, line: Callable[[T], str] | None = None) -> Iterator[T]:
    """Yield the items and show the progress, labelled by one or two words.

    ``line`` describes an item. A bar shows the description, and a log gets a line for each item. Without ``line``, a
    log gets at most ten lines.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm  # takes 60 ms to import, and most jobs write to a log

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
