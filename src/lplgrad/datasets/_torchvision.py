"""Downloads by torchvision."""

from __future__ import annotations

import errno
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lplgrad.machine.errors import DownloadError

T = TypeVar("T")
DISK_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


def unreachable(url: str, seconds: float = 3.0) -> str | None:
    """Return why a file cannot be downloaded, or None if its host begins to send it."""
    try:
        # The request is the one that torchvision makes: some hosts answer a HEAD request differently.
        with urlopen(Request(url, headers={"User-Agent": "pytorch/vision"}), timeout=seconds):
            return None
    except HTTPError as error:
        return f"{url} answers {error.code} {error.reason}"
    except URLError as error:
        return f"no connection to {url} ({error.reason})"
    except (OSError, HTTPException) as error:
        return f"no connection to {url} ({error!r})"


def missing(url: str, files: str) -> str | None:
    """Return why a file cannot be downloaded, and which files to place by hand; None if it can be downloaded."""
    reason = unreachable(url)
    return reason and f"{reason}; place {files}"


def download(name: str, files: str, downloads: Path, load: Callable[[], T]) -> T:
    """Call ``load``, which creates a data set of torchvision and downloads what is missing.

    Args:
        name: the name of the data set, for messages.
        files: the files that the user can place by hand instead, and where.
        downloads: the folder for downloads.
        load: creates the data set.

    Raises:
        DownloadError: the download failed, or a file has a wrong checksum.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        return load()
    except (OSError, HTTPException, RuntimeError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise OSError(error.errno, error.strerror, error.filename or str(downloads)) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"{name}: not downloaded, or not what it should be ({reason}); place {files} by hand"
        ) from None
