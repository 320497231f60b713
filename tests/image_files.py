"""Image files for tests, also of kinds that Pillow cannot write, and folders of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lplgrad import datasets
from lplgrad.datasets import Prepared
from lplgrad.datasets.prepared.arrays import DatasetArrays
from lplgrad.datasets.prepared.writing import write_dataset

Array = npt.NDArray[Any]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, size=shape).astype(np.uint8)


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0, **options: Any) -> Path:
    """An image file of some mode, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(noise(size[1], size[0], 3, seed=seed)).convert("L" if mode == "LA" else "RGB").convert(mode)
    image.save(path, **options)
    return path


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def exif_block(tags: list[tuple[int, int, int, bytes]], after: bytes = b"") -> bytes:
    """A block of metadata of some tags: number, type, count, and four bytes."""
    entries = b"".join(struct.pack("<HHL", *tag[:3]) + tag[3] for tag in tags)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + after


def write_tiff(
    path: Path,
    pixels: Array,
    *,
    kind: int = 1,
    photometric: int | None = 1,
    order: str = "<",
    compressed: bool = False,
    planar: bool = False,
    more: Sequence[tuple[int, int, int | tuple[int, ...]]] = (),
) -> Path:
    """Write a TIFF of pixels of any type, which Pillow cannot.

    Args:
        path: of the file.
        pixels: shape (H, W) or (H, W, channels).
        kind: of numbers: 1 unsigned, 2 signed, 3 floating-point.
        photometric: 0 where zero is white, 1 where it is black, 2 for RGB, 3 for a palette, 5 for CMYK; None leaves the
            tag out.
        order: of bytes, ``<`` or ``>``.
        compressed: by deflate.
        planar: whether each channel is a plane of its own.
        more: further tags: number, type, value or values.
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = pixels.shape
    planes = np.moveaxis(pixels, 2, 0) if planar else [pixels]
    strips = [plane.astype(pixels.dtype.newbyteorder(order)).tobytes() for plane in planes]  # type: ignore[arg-type]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    tags = [(number, form, value if isinstance(value, tuple) else (value,)) for number, form, value in more]
    tags += [(256, 3, (width,)), (257, 3, (height,)), (258, 3, (pixels.dtype.itemsize * 8,) * channels)]
    tags += [(259, 3, (8 if compressed else 1,)), (277, 3, (channels,)), (278, 3, (height,)), (339, 3, (kind,))]
    tags += [(279, 4, tuple(map(len, strips))), (284, 3, (2 if planar else 1,))]
    tags += [] if photometric is None else [(262, 3, (photometric,))]
    codes = {2: "B", 3: "H", 4: "L", 9: "l"}
    place = 8 + 2 + 12 * (len(tags) + 1) + 4  # of values that do not fit into their tag's entry
    sizes = [struct.calcsize(f"={len(values)}{codes[form]}") for _, form, values in [*tags, (273, 4, strips)]]
    starts = np.cumsum([place + sum(size for size in sizes if size > 4), *map(len, strips)])[:-1]
    tags += [(273, 4, tuple(starts.tolist()))]
    file, after = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HLH", 42, 8, len(tags)), b""
    for number, form, values in sorted(tags):
        content = struct.pack(f"{order}{len(values)}{codes[form]}", *values)
        if len(content) > 4:
            content, after = struct.pack(f"{order}L", place + len(after)), after + content
        file += struct.pack(f"{order}HHL", number, form, len(values)) + content.ljust(4, b"\0")
    path.write_bytes(file + bytes(4) + after + b"".join(strips))
    return path


def write_png(path: Path, rows: Array, bits: int, *, coloured: bool = False, key: tuple[int, ...] = ()) -> Path:
    """Write a PNG of numbers of any bits with a transparent colour, which Pillow cannot.

    Args:
        path: of the file.
        rows: shape (H, W) or (H, W, 3).
        bits: of a number.
        coloured: whether the pixels are RGB.
        key: the transparent colour; nothing leaves it out.
    """

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))

    header = struct.pack(">LLBBBBB", rows.shape[1], rows.shape[0], bits, 2 if coloured else 0, 0, 0, 0)
    content = b""
    for row in rows:
        digits = "".join(f"{number:0{bits}b}" for number in row.ravel())
        content += b"\0" + int(digits + "0" * (-len(digits) % 8), 2).to_bytes(-(-len(digits) // 8), "big")
    transparent = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + transparent
        + chunk(b"IDAT", zlib.compress(content))
        + chunk(b"IEND", b"")
    )
    return path


def raw_profile() -> PngInfo:
    block = orientation(6).tobytes()
    info = PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    return info


def xmp_text() -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


def photos(folder: Path) -> Path:
    """A folder of two classes, with images at several depths."""
    for number in range(6):
        save(folder / "cat" / ("deep/er" if number % 2 else "") / f"{number}.png", seed=number)
        save(folder / "dog" / f"{number}.jpg", seed=10 + number)
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    (folder / "cat" / ".DS_Store").write_text("")
    return folder


def prepare(name: str, downloads: Path, **options: Any) -> Prepared:
    """What a source of images returns, before anything is decoded."""
    source = datasets.registry.load(name)
    return source.prepare(source.options(**options), downloads)


def prepare_folder(place: Path, folder: Path, **options: Any) -> DatasetArrays:
    """Prepare a folder of images as the data set ``place/data``."""
    return write_dataset(place / "data", prepare("image_folder", place, path=str(folder), **options), threads=3)
