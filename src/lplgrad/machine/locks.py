"""Locks that the kernel keeps: whoever holds one has a file open, and its death, however it dies, frees the lock.

Two uses: a round's folder, in which only one process may work at a time, and the leases of GPUs. ``flock`` is called as
it is, not through a library: no fallback to locks that outlive their holder is wanted, and a lock's file is removed
after use, since a study has thousands of folders.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lplgrad.machine.log import say

POLL_SECONDS = 0.2
# How file systems say that they have no locks. 524 is ENOTSUPP, a number of the kernel's own that NFS and autofs let
# through. EIO is not among them: where reading and writing fail, the job would fail too.
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, 524, errno.ENOLCK, errno.EINVAL}


def acquire(path: Path, shared: bool = False) -> int | None:
    """Try once to get a lock, for oneself or to share.

    Returns:
        An open file to be closed by ``release``, or by the end of the process; None if another process has the lock.

    Raises:
        OSError: the file cannot be written, or its file system has no locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # its last holder has just removed the folder, which was empty
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # Whoever had it may have removed the file after it was opened here: then this locks a file without a name.
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                with suppress(OSError):  # who it is, is told for people only; the disk may be full
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
            raise OSError(error.errno, error.strerror, str(path)) from None
        os.close(descriptor)


def release(path: Path, descriptor: int) -> None:
    """Give a lock back and remove its file."""
    with suppress(FileNotFoundError):
        path.unlink()
    os.close(descriptor)


def holder(path: Path) -> str:
    """Who has a lock, for a message."""
    try:
        return path.read_text(errors="replace")[:200].strip() or "another process"
    except OSError:
        return "another process"


def is_held(path: Path) -> bool:
    """Whether a process has a lock. Leaves no file where there was none."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


@contextmanager
def alone(folder: Path, what: str) -> Iterator[Callable[[], bool]]:
    """Be the only process that does ``what`` in a round's folder.

    A Snakemake that was killed may have left a job running, and its successor comes to the same folder. The successor
    waits; a job that can be taken up again asks, now and then, whether somebody waits, and ends where it is.

    Args:
        folder: of the round; made if it is missing.
        what: name of the work.

    Yields:
        A function that tells whether another process waits for the folder.
    """
    made = not folder.exists()
    lock, following = folder / f".{what}.lock", folder / f".{what}.next.lock"
    try:
        descriptor = _wait(lock, following, what)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        lock.unlink(missing_ok=True)
        say(f"{folder}: its file system has no locks; make sure that no other run works on this study")
        yield lambda: False
        return
    try:
        yield lambda: is_held(following)
    finally:
        release(lock, descriptor)
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _wait(lock: Path, following: Path, what: str) -> int:
    queued = None
    said = False
    try:
        while (descriptor := acquire(lock)) is None:
            if not said:
                say(f"{lock.parent}: waiting for {holder(lock)}, which is doing the same ({what})")
                said = True
            queued = queued or acquire(following)
            time.sleep(POLL_SECONDS)
        return descriptor
    finally:
        if queued is not None:
            release(following, queued)
