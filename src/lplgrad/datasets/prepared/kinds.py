"""Recognise images among files: by the ending of a name, and otherwise by the first bytes of the file.

A file whose name has the ending of an image is not opened here, unless what is in it decides whether it can be read.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

# Names, in lower case, of files and folders that systems and programs make: they are neither classes nor images
JUNK = {
    "__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "lost+found", "$recycle.bin",
    "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip
JUNK_PREFIXES = (".", "SYNOPHOTO_THUMB")  # hidden files and folders such as .git, and the previews of a Synology disk
PLAIN_ENDINGS = {
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp",
}  # fmt: skip
OPTIONAL_ENDINGS = {".avif", ".heic", ".heif", ".hif", ".j2k", ".jp2"}
ENDINGS = PLAIN_ENDINGS | OPTIONAL_ENDINGS
# Kinds of images that are always read, as Pillow calls them
PLAIN = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Kinds that are read if something is installed, with Pillow's names for them
OPTIONAL = {"AVIF": "AVIF", "HEIC": "HEIF", "JPEG 2000": "JPEG2000"}
NAMED = "image"  # the kind of a file that has the ending of an image
OTHER_TIFF = "raw or other TIFF"
STARTS = [
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", "BMP"),
    (rb"P[1-6]\s+(#[^\n]*\n\s*)*\d+\s+\d+\s", "PPM"),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|IIU\0", "camera raw"),
    (rb"8BPS", "Photoshop"),
    (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a", "JPEG XL"),
    (rb".{128}DICM", "DICOM"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"SIMPLE  =", "FITS"),
    (rb"\s*(<\?xml.{,400})?<svg\b", "SVG"),
]
START_BYTES = 512


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or is one that systems and programs make. It is then ignored."""
    return name.startswith(JUNK_PREFIXES) or name.lower() in JUNK


def is_image(path: Path) -> bool:
    """Return whether a file is an image, whatever it needs to be read. It is opened only if its ending is of no image.

    Raises:
        OSError: the file cannot be opened.
    """
    return ending(path) in ENDINGS or kind(path) is not None


def kind(path: Path) -> str | None:
    """Return the kind of an image, or None if a file is none. Files with an ending of ``PLAIN_ENDINGS`` are not opened.

    Raises:
        OSError: the file cannot be opened.
    """
    if ending(path) in PLAIN_ENDINGS:
        return NAMED
    found = kind_of(_start(path))
    if found == "TIFF" and path.suffix:  # a raw file of a camera opens as its small preview
        return OTHER_TIFF
    return NAMED if found is None and ending(path) in OPTIONAL_ENDINGS else found


def kind_of(start: bytes) -> str | None:
    """Return the kind of an image that begins with some bytes (``START_BYTES``, or all of it); None if it is none."""
    if start[4:8] == b"ftyp":
        brands = re.findall(rb"[ -~]{4}", start[8 : int.from_bytes(start[:4])])
        if {b"avif", b"avis"} & set(brands):
            return "AVIF"
        if re.match(rb"hei|hev|mif1|msf1", start[8:12]):
            return "HEIC"
    return next((kind for pattern, kind in STARTS if re.match(pattern, start, re.DOTALL)), None)


@cache
def missing(kind: str) -> str | None:
    """Return what must be installed to read a kind of ``OPTIONAL``, or None if it can be read."""
    from PIL import features  # slow, and the Snakefile imports this module

    if kind == "HEIC":
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return "pillow-heif: pip install pillow-heif"
        register_heif_opener()
        return None
    known = features.check({"AVIF": "avif", "JPEG 2000": "jpg_2000"}[kind])
    return None if known else f"a Pillow that reads {kind}: pip install --upgrade pillow"


def ending(path: Path) -> str:
    """Return the ending of a file's name in lower case, with its dot."""
    return path.suffix.lower()


def _start(path: Path) -> bytes:
    """Return the first bytes of a file, or none of what is no file: opening a pipe would block."""
    if not path.is_file():
        return b""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, START_BYTES)
    finally:
        os.close(descriptor)
