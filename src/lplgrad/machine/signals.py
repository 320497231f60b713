"""SIGTERM, SIGINT and SIGHUP: a job ends at once and leaves nothing half-written, or first gets where it can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lplgrad.machine.log import say


class Interrupted(BaseException):
    """The process was asked to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class Requests:
    """What was asked for while ``deferred``.

    Attributes:
        number: of the signal that came; None as long as none did.
    """

    number: int | None = None


def ends_cleanly() -> None:
    """From now on SIGTERM raises ``Interrupted``, so that half-written files are removed; SIGINT and SIGHUP do so too,
    if they are not ignored (as in a shell's background, and under nohup).
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    _install(end)


@contextmanager
def deferred(until: str) -> Iterator[Requests]:
    """Note the first signal instead of ending; the second ends at once.

    Args:
        until: where the work will end, for the message.
    """
    requests = Requests()

    def note(number: int, frame: FrameType | None) -> None:
        if requests.number is not None:
            raise Interrupted(number)
        requests.number = number
        say(f"{signal.Signals(number).name}: ending {until}; once more to end at once")

    before = _install(note)
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(handler: signal._HANDLER) -> dict[int, signal._HANDLER]:
    """Handlers that were there before, by signal. Only the main thread may have any."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, signal._HANDLER] = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, handler)
    return before
