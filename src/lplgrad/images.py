"""Image files decoded into arrays: whatever their format and mode, they become RGB of one size."""

from __future__ import annotations

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lplgrad.datasets import Fit, ImageFiles
from lplgrad.errors import UserError
from lplgrad.progress import track

# Of what Pillow reads: some of its other formats hand the file to a program, as PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


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

    The camera's orientation is applied; transparent pixels are laid over white; grey, palette, CMYK and 16-bit images
    become 8-bit RGB. Scaling is bilinear with antialiasing.

    Args:
        path: the file.
        side: height and width of the result; None for the image's own.
        fit: see ``ImageFiles``.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        ValueError: the file is no image, is cut off, or is so large that it may be meant to exhaust the memory.
        OSError: it cannot be opened.
    """
    try:
        with Image.open(path, formats=FORMATS) as opened:
            if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # of which Pillow only warns
                raise ValueError(f"{opened.width}x{opened.height} pixels are more than {Image.MAX_IMAGE_PIXELS}")
            image = _rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:
        raise ValueError("no image, or of an unknown format") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None
    except (
        SyntaxError,
        EOFError,
        KeyError,
        IndexError,
        TypeError,
        RuntimeError,
    ) as error:  # how Pillow's decoders also fail
        raise ValueError(str(error)) from None
    if side is not None and image.size != (side, side):
        resample = Image.Resampling.BILINEAR
        image = ImageOps.fit(image, (side, side), resample) if fit == "crop" else image.resize((side, side), resample)
    return np.asarray(image)


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

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # such images are refused
        for _ in track(pool.map(work, range(len(files.paths))), len(files.paths), what):
            pass
    if unreadable:
        raise UnreadableImagesError(dict(sorted(unreadable.items())), len(files.paths))


def first_shape(splits: list[ImageFiles]) -> tuple[int, int, int]:
    """Shape that all images will have: that which is asked for, or that of the first readable one."""
    for files in splits:
        if files.side is not None:
            return files.side, files.side, 3
        for path in files.paths:
            try:
                height, width, _ = decode(path, None, files.fit).shape
            except (OSError, ValueError):
                continue
            return height, width, 3
    return 1, 1, 3
