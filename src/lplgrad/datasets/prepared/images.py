"""Decode image files of any format and mode into RGB arrays of one size."""

from __future__ import annotations

import math
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps, ImagePalette, UnidentifiedImageError
from PIL import TiffImagePlugin as Tiff
from PIL.Image import Transpose
from PIL.JpegImagePlugin import JpegImageFile

from lplgrad.datasets import Fit, ImageFiles
from lplgrad.datasets.prepared.kinds import OPTIONAL, PLAIN, START_BYTES, kind_of, missing
from lplgrad.machine.errors import UserError
from lplgrad.machine.files import printable
from lplgrad.machine.log import track

SAVED_AFTER = 1000  # images
# How to turn an image upright, by its orientation in EXIF or XMP.
TURNS: dict[object, Transpose] = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
# Pillow scales the grey pixels of a PNG file to 8 bits, but not its transparent colour. By Pillow's name of the pixels:
# the number of levels, and the step between two levels in 8 bits.
KEY_SCALES = {"L;2": (4, 85), "L;4": (16, 17), "L": (256, 1), "RGB": (256, 1)}
ADVICE = "set value_range to the lowest and highest number of the whole data set, as [low, high]"


def decode(
    path: Path, side: int | None, fit: Fit, value_range: Sequence[float] | None = None, seen: list[str] | None = None
) -> npt.NDArray[np.uint8]:
    """Decode an image file into uint8 of shape (H, W, 3).

    The camera's orientation is applied, and a broken block of metadata is ignored. Transparent pixels are laid over
    white. Grey, palette, CMYK and 16-bit images become 8-bit RGB. Scaling is bilinear with antialiasing.

    Grey pixels that are not unsigned 8-bit numbers are scaled linearly to 8 bits, by ``value_range`` or the limits of
    their kind (see ``_values``). The range of an image's own pixels is never used: it differs from image to image.

    Args:
        path: the file.
        side, fit, value_range: see ``ImageFiles``.
        seen: a list to which the kind of the image's numbers is appended.

    Raises:
        ValueError: the file is not an image, is broken or too large, or its pixels do not fit the value range.
        OSError: the file cannot be opened, or the image is truncated.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
        raise ValueError("not a regular file")
    try:
        # Pillow maps a file into memory if it opens it by name. It then scrambles uncompressed TIFF images that must be
        # turned by 90 degrees.
        with path.open("rb") as file, _open(file) as opened:
            if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # Pillow would only warn
                raise ValueError(f"{opened.width}x{opened.height} pixels are more than {Image.MAX_IMAGE_PIXELS}")
            if isinstance(opened, Tiff.TiffImageFile):
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
    except Exception as error:  # Pillow raises exceptions of many types for broken files
        raise ValueError(f"{type(error).__name__}: {error}".rstrip(": ")) from None


class _JpegFile(JpegImageFile):
    """A JPEG file that Pillow opens without reading its metadata, because broken metadata makes it fail."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _open(file: BinaryIO) -> ImageFile.ImageFile:
    found = kind_of(file.read(START_BYTES))
    file.seek(0)
    if found == "JPEG":
        return _JpegFile(file)
    if found in OPTIONAL:
        if needed := missing(found):
            raise ValueError(f"a file of the kind {found}, which needs {needed}")
        return Image.open(file, formats=[OPTIONAL[found]])
    if found is not None and found not in PLAIN:
        raise ValueError(f"a file of the kind {found}, which is not read; convert it to PNG or TIFF")
    # Other formats are not read: Pillow runs programs for some of them, such as PostScript.
    return Image.open(file, formats=PLAIN)


def _mend_tiff(opened: Tiff.TiffImageFile) -> None:
    """Correct the tags of a TIFF file that Pillow would misread, or raise ValueError. It must not be loaded yet."""
    tags = opened.tag_v2
    if tags.get(Tiff.PLANAR_CONFIGURATION) == 2 and tags.get(Tiff.SAMPLESPERPIXEL, 1) == 1:
        # The specification says to ignore this tag here, but Pillow then ignores the kind of the numbers.
        tags[Tiff.PLANAR_CONFIGURATION] = 1
        opened._setup()
    elif tags.get(Tiff.PLANAR_CONFIGURATION) == 2:
        known = opened.mode in ("RGB", "CMYK") or (opened.mode == "RGBA" and Tiff.EXTRASAMPLES in tags)
        plain = set(tags.get(Tiff.BITSPERSAMPLE, (1,))) == {8} and tags.get(Tiff.FILLORDER, 1) == 1
        if not known or not (plain or opened.tile[0][0] == "libtiff"):
            raise ValueError(
                "a TIFF with a plane for each channel (PlanarConfiguration 2), which Pillow reads only for RGB and "
                "CMYK, and without compression only for 8 bits; save it with the channels of a pixel side by side"
            )
    if opened.mode in ("P", "PA") and max(tags[Tiff.COLORMAP]) < 256:
        # The numbers should have 16 bits. Like libtiff, take small ones for 8 bits: otherwise all would be black.
        opened.palette = ImagePalette.raw("RGB;L", bytes(tags[Tiff.COLORMAP]))


def _load(opened: ImageFile.ImageFile) -> None:
    """Load the pixels, and scale the transparent colour of a PNG file as Pillow scales the pixels."""
    pixels = opened.tile[0][3] if opened.format == "PNG" and opened.tile else None
    try:
        opened.load()
    except ValueError as error:
        raise ValueError(f"pixels that Pillow cannot read ({error}); convert the image to 8-bit RGB or grey") from None
    key = opened.info.get("transparency")
    if key is not None and pixels == "RGB;16B":
        raise ValueError(
            "a PNG of 16-bit colours with a transparent colour (tRNS), which Pillow cannot compare (it keeps 8 bits); "
            "save it with an alpha channel or as 8-bit RGB"
        )
    if key is not None and pixels in KEY_SCALES:
        numbers, step = KEY_SCALES[pixels]
        opened.info["transparency"] = (
            tuple(one % numbers * step for one in key) if isinstance(key, tuple) else key % numbers * step
        )


def _upright(opened: ImageFile.ImageFile) -> Image.Image:
    """Load an image and apply its orientation. Broken metadata is ignored, because the pixels may still be sound."""
    if isinstance(opened, Tiff.TiffImageFile):
        # Pillow itself turns a TIFF image when it loads it, but fails on broken metadata that is not needed here.
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
    """The meaning of grey pixels that are not unsigned 8-bit numbers."""

    kind: str  # of the numbers, for messages
    view: type[np.generic] | None = None  # the type to read Pillow's array as; None for its own type
    unit: float = 1.0  # how many times larger a number is in Pillow's array than in the file
    limits: tuple[float, float] | None = None  # black and white in Pillow's array; None if they are unknown
    white_is_zero: bool = False  # whether the smallest number is white

    def levels(self, image: Image.Image, value_range: Sequence[float] | None) -> npt.NDArray[np.uint8]:
        """Return the image in 8 bits, shape (H, W). Raise ValueError for numbers that cannot be scaled."""
        pixels = np.asarray(image)
        values = (pixels if self.view is None else pixels.view(self.view)).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("some pixels are NaN or infinite")
        found = f"the pixels are {self.kind} numbers from {values.min() / self.unit:g} to {values.max() / self.unit:g}"
        if value_range is not None:
            low, high = (self.unit * limit for limit in value_range)
        elif self.limits is not None:
            low, high = self.limits
        else:
            raise ValueError(f"{found}, and nothing says which are black and white; {ADVICE}")
        levels = np.rint((values - low) / ((high - low) / 255))
        if value_range is None and (levels.min() < 0 or levels.max() > 255):
            raise ValueError(f"{found}, beyond {low:g} to {high:g}; {ADVICE}")
        levels = np.clip(levels, 0, 255)
        if self.white_is_zero:
            levels = 255 - levels
        if "transparency" in image.info:
            levels[values == image.info["transparency"]] = 255
        return levels.astype(np.uint8)


def _values(opened: ImageFile.ImageFile) -> _Values | None:
    """Return the meaning of the pixels of a file that is not loaded yet; None if Pillow converts them correctly."""
    kind, bits, white_is_zero = 1, 16, False
    if isinstance(opened, Tiff.TiffImageFile):
        tags = opened.tag_v2
        kind, bits = tags.get(Tiff.SAMPLEFORMAT, (1,))[0], tags.get(Tiff.BITSPERSAMPLE, (1,))[0]
        white_is_zero = tags.get(Tiff.PHOTOMETRIC_INTERPRETATION) == 0
        if opened.mode in ("I", "F") and tags.prefix == b"MM" and opened.tile[0][0] == "libtiff":
            raise ValueError(
                "a compressed big-endian TIFF of signed or floating-point numbers, whose bytes Pillow exchanges; save "
                "it uncompressed or little-endian"
            )
    if opened.mode == "F":
        return _Values("floating-point", limits=(0, 1), white_is_zero=white_is_zero)
    if opened.mode.startswith("I;16"):
        largest = 4095 if bits == 12 else 65535
        return _Values(f"unsigned {bits}-bit", limits=(0, largest), white_is_zero=white_is_zero)
    if opened.mode == "I" and opened.format == "PPM":  # Pillow scales from [0, the file's maximum] to [0, 65535]
        decoding = opened.tile[0][3]
        maximum = decoding[1] if isinstance(decoding, tuple) else 65535
        return _Values("unsigned", unit=65535 / maximum, limits=(0, 65535))
    if opened.mode == "I":
        view = np.uint32 if kind == 1 else np.int32
        return _Values(f"{'unsigned' if kind == 1 else 'signed'} {bits}-bit", view, white_is_zero=white_is_zero)
    return _Values("signed 8-bit", np.int8) if opened.mode == "L" and kind == 2 else None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # grey pixels multiplied by their alpha, which Pillow converts to LA only
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


@dataclass
class Decoded:
    """What the first images of a split turned out to be.

    Attributes:
        images: how many were tried.
        kinds: how many have each kind of numbers.
        unreadable: why images could not be decoded, by their positions.
    """

    images: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)


def decode_all(
    files: ImageFiles,
    into: npt.NDArray[np.uint8],
    threads: int,
    what: str,
    done: Decoded,
    save: Callable[[], None],
) -> None:
    """Decode the images of a split into an array, in several threads (Pillow releases Python's lock).

    Args:
        files: the N images.
        into: uint8, shape (N, H, W, 3).
        threads: the number of threads.
        what: a label for the progress bar.
        done: which images are decoded already; the others are added.
        save: is called after every ``SAVED_AFTER`` images, and at the end.

    Raises:
        UserError: images have different sizes.
        OSError: if unreadable images are left out: the system fails to read a file, which may be sound.
    """

    def work(position: int) -> tuple[str, str | None]:
        path, kinds = files.paths[position], list[str]()
        try:
            image = decode(path, files.side, files.fit, files.value_range, kinds)
        except (OSError, ValueError) as error:
            if files.skip_unreadable and isinstance(error, OSError) and error.errno is not None:
                raise
            return "", " ".join(str(error).split())
        if image.shape != into.shape[1:]:
            sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (into.shape[1:], image.shape))
            raise UserError(
                f"{printable(path)}: images of different sizes ({sizes}); set image_size to bring them to one"
            )
        into[position] = image
        return kinds[0], None

    def results(pool: ThreadPoolExecutor) -> Iterator[None]:
        while done.images < len(files.paths):
            block = range(done.images, min(done.images + SAVED_AFTER, len(files.paths)))
            for position, (kind, problem) in zip(block, pool.map(work, block), strict=True):
                if problem is None:
                    done.kinds[kind] = done.kinds.get(kind, 0) + 1
                else:
                    done.unreadable[position] = problem
                yield
            done.images = block.stop
            save()

    # Pillow's warnings name no file. They concern metadata that is not used, and images that are refused.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads) as pool:
        for _ in track(results(pool), len(files.paths) - done.images, what):
            pass


def readable(files: ImageFiles, threads: int) -> ImageFiles:
    """Return the images of a split that can be decoded."""

    def works(path: Path) -> bool:
        try:
            decode(path, files.side, files.fit, files.value_range)
        except (OSError, ValueError):
            return False
        return True

    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads) as pool:
        kept = np.flatnonzero(list(pool.map(works, files.paths)))
    return replace(files, paths=[files.paths[position] for position in kept], labels=files.labels[kept])


def first_shape(splits: list[ImageFiles]) -> tuple[int, int, int]:
    """Return the shape of all decoded images: the size in the settings, or that of the first readable image."""
    for files in splits:
        if files.side is not None:
            return files.side, files.side, 3
        for path in files.paths:
            with suppress(OSError, ValueError), warnings.catch_warnings(action="ignore"):
                height, width, _ = decode(path, None, files.fit, files.value_range).shape
                return height, width, 3
    return 1, 1, 3
