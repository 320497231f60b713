"""Handle SIGTERM, SIGINT and SIGHUP: remove half-written files and end, or first reach a point to resume from."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lplgrad.machine.log import say

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """The signal ``number`` ended the process."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def ends_cleanly() -> None:
    """Make SIGTERM, SIGINT and SIGHUP raise ``Interrupted``. Signals that are ignored, as under nohup, stay ignored."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    _install(end)


@contextmanager
def deferred(until: str) -> Iterator[list[Interrupted]]:
    """Append the first ``Interrupted`` to the yielded list, and say when the work will end. Raise the next one.

    Signals within a second are one: whoever ends all processes also ends those that forward signals to this one.
    """
    received: list[Interrupted] = []
    first = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if received and time.monotonic() > first + 1:
            raise Interrupted(number)
        if received:
            return
        first = time.monotonic()
        received.append(Interrupted(number))
        say(f"{signal.Signals(number).name}: ending {until}; once more to end at once")

    before = _install(note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(handler: signal._HANDLER) -> dict[int, signal._HANDLER]:
    """Install a handler and return the previous ones by signal. Python permits this in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {n: signal.signal(n, handler) for n in ENDING if signal.getsignal(n) is not signal.SIG_IGN}
