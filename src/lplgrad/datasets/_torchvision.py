"""What the data sets that torchvision downloads have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.error import URLError
from urllib.request import Request, urlopen

from lplgrad.errors import UserError

T = TypeVar("T")


def unreachable(url: str, seconds: float = 3.0) -> str | None:
    """Why nothing can be downloaded from an address; None where its host answers, whatever it answers."""
    try:
        with urlopen(Request(url, method="HEAD"), timeout=seconds):
            return None
    except URLError as error:
        # An HTTPError is an answer: some hosts do not like to be asked this way.
        return None if hasattr(error, "code") else f"no connection to {url} ({error.reason})"
    except OSError as error:
        return f"no connection to {url} ({error})"


def download(name: str, files: str, downloads: Path, load: Callable[[], T]) -> T:
    """Load one of torchvision's data sets, downloading what is missing.

    Args:
        name: of the data set, for messages.
        files: which files to place by hand, and where, if a download is not possible.
        downloads: the folder for downloads.
        load: makes the data set.

    Raises:
        UserError: it could not be downloaded, or what lies there has another checksum than it should.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    try:
        return load()
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        if isinstance(error, PermissionError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name}: not downloaded, or not what it should be ({reason}); place {files} by hand and run again"
        ) from None
