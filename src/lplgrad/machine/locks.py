"""Locks held by an open file. The kernel releases a lock when its holder ends, even if it was killed.

``flock`` is called directly: libraries fall back to lock files that outlive a killed holder. A lock's file is removed
after use, because a study has thousands of folders.
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
# Errors of file systems without locks. 524 is the kernel's ENOTSUPP, which NFS and autofs return. EIO is not included:
# a job cannot work on a disk that fails to read or write.
UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, 524, errno.ENOLCK, errno.EINVAL}
HELD = {errno.EAGAIN, errno.EACCES}


def acquire(path: Path, shared: bool = False) -> int | None:
    """Try once to acquire a lock, exclusive or shared.

    Returns:
        An open file, which ``release`` or the end of the process closes; None if another process holds the lock.

    Raises:
        OSError: the file cannot be written, or its file system has no locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the last holder has just removed the empty folder
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            # The previous holder may have removed the file after it was opened here. The lock would then be useless.
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                with suppress(OSError):  # the disk may be full, and the text is informative only
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(descriptor)
            if error.errno in HELD:
                return None
            raise OSError(error.errno, error.strerror, str(path)) from None
        os.close(descriptor)


def release(path: Path, descriptor: int) -> None:
    """Release a lock and remove its file."""
    path.unlink(missing_ok=True)
    os.close(descriptor)


def holder(path: Path) -> str:
    """Return who holds a lock, for a message."""
    with suppress(OSError):
        if text := path.read_text(errors="replace")[:200].strip():
            return text
    return "another process"


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock. The lock's file is not created."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in HELD
    finally:
        os.close(descriptor)
    return False


@contextmanager
def alone(folder: Path, what: str) -> Iterator[Callable[[], bool]]:
    """Make sure that only one process does ``what`` in a folder, which is created if it is missing.

    A killed Snakemake may leave a job running, and the next Snakemake starts the same job again. The new job waits for
    the old one. The yielded function returns whether another process waits. A job that can be resumed calls it
    regularly, and ends early if one does.
    """
    created = not folder.exists()
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
        if created:
            with suppress(OSError):  # the folder is not empty
                folder.rmdir()


def _wait(lock: Path, following: Path, what: str) -> int:
    """Wait for a lock. Meanwhile hold ``following``, which asks the lock's holder to end."""
    if (descriptor := acquire(lock)) is not None:
        return descriptor
    say(f"{lock.parent}: waiting for {holder(lock)}, which is doing the same ({what})")
    queued = None
    try:
        while (descriptor := acquire(lock)) is None:
            queued = queued or acquire(following)
            time.sleep(POLL_SECONDS)
        return descriptor
    finally:
        if queued is not None:
            release(following, queued)
