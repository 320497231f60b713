"""What the data sets that torchvision downloads have in common."""

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
# What is wrong with the disk, and not with the network.
_OF_THE_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


def unreachable(url: str, seconds: float = 3.0) -> str | None:
    """Why a file cannot be downloaded; None where its host begins to send it.

    The host is asked as torchvision will ask it, and left when it answers: to HEAD, some answer otherwise.
    """
    try:
        with urlopen(Request(url, headers={"User-Agent": "pytorch/vision"}), timeout=seconds):
            return None
    except HTTPError as error:
        return f"{url} answers {error.code} {error.reason}"
    except URLError as error:
        return f"no connection to {url} ({error.reason})"
    except (OSError, HTTPException) as error:
        return f"no connection to {url} ({error!r})"


def download(name: str, files: str, downloads: Path, load: Callable[[], T]) -> T:
    """Load one of torchvision's data sets, downloading what is missing.

    Args:
        name: of the data set, for messages.
        files: which files to place by hand, and where, if a download is not possible.
        downloads: the folder for downloads.
        load: makes the data set.

    Raises:
        DownloadError: it could not be downloaded, or what lies there has another checksum than it should.
        OSError: it cannot be written.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        return load()
    except (OSError, HTTPException, RuntimeError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise OSError(error.errno, error.strerror, error.filename or str(downloads)) from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"{name}: not downloaded, or not what it should be ({reason}); place {files} by hand"
        ) from None
