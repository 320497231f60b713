"""Image files decoded into arrays: whatever their format and mode, they become RGB of one size."""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from lplgrad.datasets import Fit, ImageFiles
from lplgrad.errors import UserError
from lplgrad.progress import track

# Of what Pillow reads: some of its other formats hand the file to a program, as PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# What makes an image upright, by its orientation in EXIF or XMP.
TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImagesError(UserError):
    """Images that could not be decoded.

    Attributes:
        reasons: why, by path.
    """

    def __init__(self, reasons: dict[Path, str], of: int) -> None:
        path, reason = next(iter(reasons.items()))
        super().__init__(f"{len(reasons)} of {of} images cannot be read, the first is {path} ({reason})")
        self.reasons = reasons


def decode(path: Path, side: int | None, fit: Fit) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    The camera's orientation is applied, and a broken block of metadata is ignored. Transparent pixels are laid over
    white. Grey, palette, CMYK and 16-bit images become 8-bit RGB. Scaling is bilinear with antialiasing.

    Args:
        path: the file.
        side: height and width of the result; None for the image's own.
        fit: see ``ImageFiles``.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: the file is no image, or a broken one, or one so large that it may be meant to exhaust the memory.
        OSError: the file cannot be opened, or the image is cut off.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe would wait for ever
        raise ValueError("not a regular file")
    try:
        # Pillow maps a file that it is given by name into memory, and then scrambles uncompressed TIFF images that are
        # to be turned by 90 degrees.
        with path.open("rb") as file, _open(file) as opened:
            if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # of which Pillow only warns
                raise ValueError(f"{opened.width}x{opened.height} pixels are more than {Image.MAX_IMAGE_PIXELS}")
            image = _rgb(_upright(opened))
        if side is not None and image.size != (side, side):
            how = Image.Resampling.BILINEAR
            image = ImageOps.fit(image, (side, side), how) if fit == "crop" else image.resize((side, side), how)
        return np.asarray(image)
    except UnidentifiedImageError:
        raise ValueError("no image, or of a format or a kind of pixels that cannot be read") from None
    except (OSError, ValueError):
        raise
    except Exception as error:  # Pillow promises no types: what it raises depends on how the file is broken
        raise ValueError(f"{type(error).__name__}: {error}".rstrip(": ")) from None


class _JpegFile(JpegImageFile):
    """A JPEG file that Pillow opens without reading its metadata, on which it may fail."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    start = file.read(3)
    file.seek(0)
    return _JpegFile(file) if start == b"\xff\xd8\xff" else Image.open(file, formats=FORMATS)


def _upright(opened: ImageFile.ImageFile) -> Image.Image:
    """Load an image and turn it as its orientation says. No other metadata is read.

    A broken block of metadata says nothing: the pixels are as sound without it.
    """
    if isinstance(opened, TiffImageFile):
        # Pillow turns a TIFF image itself while it loads it, but fails on metadata that it reads only in passing.
        if not isinstance(opened.info.get("xmp"), bytes):
            opened.info.pop("xmp", None)
        exif = opened.getexif()
        for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop):
            if tag in exif:
                del exif[tag]
        opened.load()
        return opened
    opened.load()
    try:
        turn = TURNS.get(opened.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        turn = None
    return opened if turn is None else opened.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 or 32 bits a pixel, of which 16 are used
        levels = np.asarray(image).astype(np.float64) / 257
        return Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def decode_all(files: ImageFiles, into: npt.NDArray[np.uint8], threads: int, what: str) -> None:
    """Decode the images of a split into an array, by several threads (Pillow decodes outside of Python's lock).

    Args:
        files: the N images.
        into: uint8, shape (N, H, W, 3).
        threads: how many.
        what: a word for the progress bar.

    Raises:
        UnreadableImagesError: some could not be decoded; all were tried.
        UserError: images are of different sizes and no size is given.
    """
    unreadable: dict[Path, str] = {}

    def work(position: int) -> None:
        path = files.paths[position]
        try:
            image = decode(path, files.side, files.fit)
        except (OSError, ValueError) as error:
            unreadable[path] = " ".join(str(error).split())
            return
        if image.shape != into.shape[1:]:
            sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (into.shape[1:], image.shape))
            raise UserError(f"{path}: images of different sizes ({sizes}); set image_size to bring them to one")
        into[position] = image

    with _no_warnings_of_pillow(), ThreadPoolExecutor(threads) as pool:
        for _ in track(pool.map(work, range(len(files.paths))), len(files.paths), what):
            pass
    if unreadable:
        raise UnreadableImagesError(dict(sorted(unreadable.items())), len(files.paths))


@contextmanager
def _no_warnings_of_pillow() -> Iterator[None]:
    """They name no file, and are about metadata that is not used or about images that are refused anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def first_shape(splits: list[ImageFiles]) -> tuple[int, int, int]:
    """Shape that all images will have: that which is asked for, or that of the first readable one."""
    for files in splits:
        if files.side is not None:
            return files.side, files.side, 3
        for path in files.paths:
            try:
                with _no_warnings_of_pillow():
                    height, width, _ = decode(path, None, files.fit).shape
            except (OSError, ValueError):
                continue
            return height, width, 3
    return 1, 1, 3
