"""Image files decoded into arrays: whatever their format and mode, they become RGB of one size."""

from __future__ import annotations

import math
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps, ImagePalette, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COLORMAP,
    EXTRASAMPLES,
    FILLORDER,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    TiffImageFile,
)

from lplgrad.datasets import Fit, ImageFiles
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable
from lplgrad.machine.log import track

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
# Pillow scales the grey pixels of a PNG file to 8 bits, but not its transparent colour. By Pillow's name of the pixels:
# how many numbers there are, and what a difference of one becomes.
KEY_SCALES = {"L;2": (4, 85), "L;4": (16, 17), "L": (256, 1), "RGB": (256, 1)}


class UnreadableImagesError(UserError):
    """Images that could not be decoded.

    Attributes:
        reasons: why, by path.
    """

    def __init__(self, reasons: dict[Path, str], of: int) -> None:
        path, reason = next(iter(reasons.items()))
        super().__init__(f"{len(reasons)} of {of} images cannot be read, the first is {printable(path)} ({reason})")
        self.reasons = reasons


def decode(
    path: Path,
    side: int | None,
    fit: Fit,
    value_range: tuple[float, float] | None = None,
    seen: list[str] | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode an image file.

    The camera's orientation is applied, and a broken block of metadata is ignored. Transparent pixels are laid over
    white. Grey, palette, CMYK and 16-bit images become 8-bit RGB. Scaling is bilinear with antialiasing.

    Grey pixels that are not unsigned 8-bit numbers are scaled linearly to 8 bits. Without a value range, unsigned
    16-bit numbers are scaled from [0, 65535], 12-bit numbers from [0, 4095], those of a PGM file from the range that
    the file states, and floating-point numbers from [0, 1]. All others need a value range, since nothing says which
    numbers are black and white. The range of the pixels themselves is never used: it differs from image to image.

    Args:
        path: the file.
        side: height and width of the result; None for the image's own.
        fit: see ``ImageFiles``.
        value_range: see ``ImageFiles``.
        seen: the kind of the image's numbers is added to this list.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: the file is no image, or a broken one, or one so large that it may be meant to exhaust the memory;
            or its pixels do not fit the value range.
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
            if isinstance(opened, TiffImageFile):
                _mend_tiff(opened)
            values = _values(opened)
            image = _upright(opened)
            if values is not None:
                image = Image.fromarray(values.levels(image, value_range)).convert("RGB")
            elif value_range is not None:
                kinds = {"1": "8-bit grey", "L": "8-bit grey", "LA": "grey with alpha", "La": "grey with alpha"}
                raise ValueError(
                    "value_range applies only to grey pixels without alpha that have more than 8 bits, are signed or "
                    f"are floating-point; these are {kinds.get(image.mode, 'colours')}; remove it or convert the image"
                )
            else:
                image = _rgb(image)
        if seen is not None:
            seen.append("8-bit" if values is None else values.kind)
        if side is not None and image.size != (side, side):
            how = Image.Resampling.BILINEAR
            image = ImageOps.fit(image, (side, side), how) if fit == "crop" else image.resize((side, side), how)
        return np.asarray(image)
    except UnidentifiedImageError:
        raise ValueError(
            "no image, or of a format or a kind of pixels that cannot be read; convert an image to 8-bit RGB or grey"
        ) from None
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


def _mend_tiff(opened: TiffImageFile) -> None:
    """Correct what Pillow would read wrongly in a TIFF file that is not loaded yet.

    Raises:
        ValueError: the channels are in separate planes, and Pillow would mix them up.
    """
    tags = opened.tag_v2
    if tags.get(PLANAR_CONFIGURATION) == 2 and tags.get(SAMPLESPERPIXEL, 1) == 1:
        # The specification says to ignore this tag here, but Pillow then ignores the kind of the numbers.
        tags[PLANAR_CONFIGURATION] = 1
        opened._setup()
    elif tags.get(PLANAR_CONFIGURATION) == 2:
        known = opened.mode in ("RGB", "CMYK") or (opened.mode == "RGBA" and EXTRASAMPLES in tags)
        plain = set(tags.get(BITSPERSAMPLE, (1,))) == {8} and tags.get(FILLORDER, 1) == 1
        if not known or not (plain or opened.tile[0][0] == "libtiff"):
            raise ValueError(
                "a TIFF with a plane for each channel (PlanarConfiguration 2), which Pillow reads only for RGB and "
                "CMYK, and without compression only for 8 bits; save it with the channels of a pixel side by side"
            )
    if opened.mode in ("P", "PA") and max(tags[COLORMAP]) < 256:
        # The numbers should have 16 bits. As libtiff does, take small ones for 8 bits: else all would be black.
        opened.palette = ImagePalette.raw("RGB;L", bytes(tags[COLORMAP]))


def _load(opened: ImageFile.ImageFile) -> None:
    """Load the pixels, and scale the transparent colour of a PNG file as Pillow scales the pixels.

    Raises:
        ValueError: Pillow cannot read such pixels, or cannot compare them with the transparent colour.
    """
    pixels = opened.tile[0][3] if opened.format == "PNG" and opened.tile else None
    try:
        opened.load()
    except ValueError as error:
        raise ValueError(f"pixels that Pillow cannot read ({error}); convert the image to 8-bit RGB or grey") from None
    key = opened.info.get("transparency")
    if key is not None and pixels == "RGB;16B":
        raise ValueError(
            "a PNG of 16-bit colours with a transparent colour (tRNS), of which Pillow keeps too few bits to compare; "
            "save it with an alpha channel or as 8-bit RGB"
        )
    if key is not None and pixels in KEY_SCALES:
        numbers, step = KEY_SCALES[pixels]
        opened.info["transparency"] = (
            tuple(one % numbers * step for one in key) if isinstance(key, tuple) else key % numbers * step
        )


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
        _load(opened)
        return opened
    _load(opened)
    try:
        turn = TURNS.get(opened.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        turn = None
    return opened if turn is None else opened.transpose(turn)


@dataclass(frozen=True)
class _Values:
    """What the grey pixels of a file mean, where they are not unsigned 8-bit numbers.

    Attributes:
        kind: of numbers, for messages.
        view: the type that Pillow's array is to be read as; None for its own.
        unit: by how much a number is larger in Pillow's array than in the file.
        limits: black and white of this kind in Pillow's array; None where they are not known.
        white_is_zero: whether the smallest number is white.
    """

    kind: str
    view: type[np.generic] | None = None
    unit: float = 1.0
    limits: tuple[float, float] | None = None
    white_is_zero: bool = False

    def levels(self, image: Image.Image, value_range: tuple[float, float] | None) -> npt.NDArray[np.uint8]:
        """The image in 8 bits, shape (H, W).

        Raises:
            ValueError: its numbers are not finite or exceed the limits, or there are no limits.
        """
        pixels = np.asarray(image)
        values = (pixels if self.view is None else pixels.view(self.view)).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some pixels are NaN or infinite")
        found = f"the pixels are {self.kind} numbers from {values.min() / self.unit:g} to {values.max() / self.unit:g}"
        advice = "set value_range to the lowest and highest number of the whole data set, as [low, high]"
        if value_range is not None:
            low, high = (self.unit * limit for limit in value_range)
        elif self.limits is not None:
            low, high = self.limits
        else:
            raise ValueError(f"{found}, and nothing says which are black and white; {advice}")
        levels = np.rint((values - low) / ((high - low) / 255))
        if value_range is None and (levels.min() < 0 or levels.max() > 255):
            raise ValueError(f"{found}, beyond {low:g} to {high:g}; {advice}")
        levels = np.clip(levels, 0, 255)
        if self.white_is_zero:
            levels = 255 - levels
        if "transparency" in image.info:
            levels[values == image.info["transparency"]] = 255
        return levels.astype(np.uint8)


def _values(opened: ImageFile.ImageFile) -> _Values | None:
    """What the pixels of a file mean that is not loaded yet; None where Pillow brings them to 8 bits correctly."""
    if isinstance(opened, TiffImageFile):
        tags = opened.tag_v2
        kind, bits = tags.get(SAMPLEFORMAT, (1,))[0], tags.get(BITSPERSAMPLE, (1,))[0]
        white_is_zero = tags.get(PHOTOMETRIC_INTERPRETATION) == 0
        if opened.mode in ("I", "F") and tags.prefix == b"MM" and opened.tile[0][0] == "libtiff":
            raise ValueError(
                "a compressed big-endian TIFF of signed or floating-point numbers, whose bytes Pillow exchanges; save "
                "it uncompressed or little-endian"
            )
    else:
        kind, bits, white_is_zero = 1, 16, False
    if opened.mode == "F":
        return _Values("floating-point", limits=(0, 1), white_is_zero=white_is_zero)
    if opened.mode.startswith("I;16"):
        largest = 4095 if bits == 12 else 65535
        return _Values(f"unsigned {bits}-bit", limits=(0, largest), white_is_zero=white_is_zero)
    if opened.mode == "I" and opened.format == "PPM":  # scaled by Pillow from 0 to the file's own maximum
        decoding = opened.tile[0][3]
        maximum = decoding[1] if isinstance(decoding, tuple) else 65535
        return _Values("unsigned", unit=65535 / maximum, limits=(0, 65535))
    if opened.mode == "I":
        view = np.uint32 if kind == 1 else np.int32
        return _Values(f"{'unsigned' if kind == 1 else 'signed'} {bits}-bit", view, white_is_zero=white_is_zero)
    if opened.mode == "L" and kind == 2:
        return _Values("signed 8-bit", np.int8)
    return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # Pillow converts grey pixels that are multiplied by their alpha to nothing else
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def decode_all(files: ImageFiles, into: npt.NDArray[np.uint8], threads: int, what: str) -> Counter[str]:
    """Decode the images of a split into an array, by several threads (Pillow decodes outside of Python's lock).

    Args:
        files: the N images.
        into: uint8, shape (N, H, W, 3).
        threads: how many.
        what: a word for the progress bar.

    Returns:
        How many images have each kind of numbers.

    Raises:
        UnreadableImagesError: some could not be decoded; all were tried.
        UserError: images are of different sizes and no size is given.
    """
    unreadable: dict[Path, str] = {}
    kinds: list[str] = []

    def work(position: int) -> None:
        path = files.paths[position]
        try:
            image = decode(path, files.side, files.fit, files.value_range, kinds)
        except (OSError, ValueError) as error:
            unreadable[path] = " ".join(str(error).split())
            return
        if image.shape != into.shape[1:]:
            sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (into.shape[1:], image.shape))
            raise UserError(
                f"{printable(path)}: images of different sizes ({sizes}); set image_size to bring them to one"
            )
        into[position] = image

    with _no_warnings_of_pillow(), ThreadPoolExecutor(threads) as pool:
        for _ in track(pool.map(work, range(len(files.paths))), len(files.paths), what):
            pass
    if unreadable:
        raise UnreadableImagesError(dict(sorted(unreadable.items())), len(files.paths))
    return Counter(kinds)


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
                    height, width, _ = decode(path, None, files.fit, files.value_range).shape
            except (OSError, ValueError):
                continue
            return height, width, 3
    return 1, 1, 3
