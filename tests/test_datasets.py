"""Sources of images on tiny files in the exact formats of the real ones, and on all that can be wrong with them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lplgrad import datasets
from lplgrad.arrays import DatasetArrays, open_dataset
from lplgrad.configuration import read_study
from lplgrad.datasets import ImageFiles, Prepared, _torchvision, image_folder
from lplgrad.datasets._split import stratified_split
from lplgrad.errors import UserError
from lplgrad.images import decode
from lplgrad.preparation import write_dataset
from lplgrad.study import unavailable_datasets

Call = Callable[..., tuple[int, str]]
Array = npt.NDArray[Any]


def prepare(name: str, downloads: Path, **options: Any) -> Prepared:
    source = datasets.load(name)
    return source.prepare(source.options(**options), downloads)


def unavailable(name: str, downloads: Path, **options: Any) -> str | None:
    source = datasets.load(name)
    return source.unavailable(source.options(**options), downloads)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, size=shape).astype(np.uint8)


class TestCifar:
    """Pickled batches of flattened planes, labels in lists, names in a file beside them; checked by MD5."""

    @pytest.fixture(params=["CIFAR10", "CIFAR100"])
    def placed(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> tuple[str, Path]:
        import torchvision

        kind = getattr(torchvision.datasets, request.param)
        ten = request.param == "CIFAR10"
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        classes = [f"name{k}" for k in range(10 if ten else 100)]
        count = 20 if ten else 100
        for part, files in (("train_list", kind.train_list), ("test_list", kind.test_list)):
            listed = []
            for number, (name, _) in enumerate(files):
                labels = [k % len(classes) for k in range(count)]
                batch = {"data": noise(count, 3072, seed=number), "labels" if ten else "fine_labels": labels}
                (folder / name).write_bytes(pickle.dumps(batch))
                listed.append([name, md5(folder / name)])
            monkeypatch.setattr(kind, part, listed)
        key = "label_names" if ten else "fine_label_names"
        (folder / kind.meta["filename"]).write_bytes(pickle.dumps({key: classes}))
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})
        return request.param, tmp_path

    def test_images_labels_and_names(self, placed: tuple[str, Path]) -> None:
        name, folder = placed
        prepared = prepare(name.lower(), folder)
        batches = 5 if name == "CIFAR10" else 1
        assert not isinstance(prepared.train, ImageFiles)
        assert prepared.train.images.shape == (len(prepared.train.labels), 32, 32, 3)
        assert len(prepared.train.labels) == batches * len(prepared.test.labels)
        planes = noise(20 if batches == 5 else 100, 3072, seed=0).reshape(-1, 3, 32, 32)
        assert np.array_equal(prepared.train.images[: len(planes)], planes.transpose(0, 2, 3, 1))
        assert prepared.classes[7] == "name7"
        assert prepared.train.labels[9] == 9
        write_dataset(folder / "data", prepared)
        assert open_dataset(folder / "data").train.images.shape[1:] == (32, 32, 3)

    def test_a_changed_file_is_refused(self, placed: tuple[str, Path]) -> None:
        name, folder = placed
        victim = next(path for path in folder.rglob("*") if path.name in ("data_batch_1", "train"))
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
        with pytest.raises(
            UserError, match=rf"{name}: not downloaded, or not what it should be .*place cifar.*by hand"
        ):
            prepare(name.lower(), folder)

    def test_what_lies_there_is_available(self, placed: tuple[str, Path]) -> None:
        name, folder = placed
        assert unavailable(name.lower(), folder) is None


class TestSvhn:
    """MATLAB files with X of shape (32, 32, 3, N) and y from 1 to 10, where 10 is the digit 0."""

    @pytest.fixture
    def placed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        import torchvision
        from scipy.io import savemat

        (tmp_path / "svhn").mkdir()
        splits = {}
        for split, (url, name, _) in torchvision.datasets.SVHN.split_list.items():
            labels = (np.arange(30) % 10 + 1).astype(np.uint8).reshape(-1, 1)
            savemat(tmp_path / "svhn" / name, {"X": noise(32, 32, 3, 30), "y": labels})
            splits[split] = [url, name, md5(tmp_path / "svhn" / name)]
        monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
        return tmp_path

    def test_images_and_labels(self, placed: Path) -> None:
        prepared = prepare("svhn", placed)
        assert not isinstance(prepared.train, ImageFiles)
        assert prepared.train.labels.tolist()[:11] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        assert np.array_equal(prepared.train.images[4], noise(32, 32, 3, 30)[..., 4])
        write_dataset(placed / "data", prepared)

    def test_a_changed_file_is_refused(self, placed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = placed / "svhn" / "train_32x32.mat"
        path.write_bytes(path.read_bytes()[:-10])

        def offline(*arguments: object, **options: object) -> None:
            raise OSError("no network")

        monkeypatch.setattr("torchvision.datasets.svhn.download_url", offline)
        with pytest.raises(
            UserError, match=r"SVHN: not downloaded.*no network.*place train_32x32.mat and test_32x32.mat"
        ):
            prepare("svhn", placed)


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30), seed: int = 0, **options: Any) -> Path:
    """An image file of some mode, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(noise(size[1], size[0], 3, seed=seed)).convert("L" if mode == "LA" else "RGB").convert(mode)
    image.save(path, **options)
    return path


class TestCaltech:
    @pytest.fixture
    def placed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "caltech101" / "101_ObjectCategories"
        for name, count in (("BACKGROUND_Google", 3), ("Faces", 6), ("ant", 4), ("yin_yang", 5)):
            for number in range(1, count + 1):
                mode, size = ("L", (50, 20)) if number == 1 else ("RGB", (20 + number, 50))
                save(folder / name / f"image_{number:04d}.jpg", mode, size, seed=number)
        monkeypatch.setattr("lplgrad.datasets.caltech101.IMAGES", 15)
        return tmp_path

    def test_no_background_grey_becomes_colour_and_all_one_size(self, placed: Path) -> None:
        source = datasets.load("caltech101")
        construct: Any = source.options.model_construct
        options = construct(image_size=16, fit="crop", test_images=5, split_seed=0)
        data = write_dataset(placed / "data", source.prepare(options, placed), threads=2)
        assert data.classes == ["Faces", "ant", "yin_yang"]
        assert data.train.images.shape == (10, 16, 16, 3)
        assert data.test.images.shape == (5, 16, 16, 3)
        assert sorted(np.bincount(data.test.labels).tolist()) == [1, 2, 2]
        assert source.pool_size(options) == 10


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


RAMP = np.array([[0, 50, 100, 200], [1, 128, 254, 255]], dtype=np.uint8)
BLOCKS = noise(2, 3, 3).repeat(16, axis=0).repeat(16, axis=1)  # which JPEG hardly changes
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
ORIENTED: dict[str, dict[str, Any]] = {
    "exif.jpg": {"exif": orientation(6), "quality": 95},
    "exif.png": {"exif": orientation(6)},
    "exif.webp": {"exif": orientation(6), "lossless": True},
    "exif.tif": {"exif": orientation(6), "compression": "tiff_lzw"},
    "profile.png": {"pnginfo": raw_profile()},
    "xmp.jpg": {"xmp": XMP, "quality": 95},
    "xmp.png": {"pnginfo": xmp_text()},
    "xmp.webp": {"xmp": XMP, "lossless": True},
    "xmp.tif": {"tiffinfo": {700: XMP}},
}
EXIF_BLOCKS = st.builds(
    exif_block,
    st.lists(
        st.tuples(
            st.sampled_from([0x0112, 0x0100, 0x0101, 0x011A, 0x0128, 0x8769, 0x8825, 0xA005, 0x927C, 700])
            | st.integers(0, 65535),
            st.integers(0, 18),
            st.sampled_from([1, 1, 2, 4]) | st.integers(0, 2**32 - 1),
            st.sampled_from([b"\6\0\0\0", b"\x08\0\0\0"]) | st.binary(min_size=4, max_size=4),
        ),
        max_size=5,
    ),
    st.binary(max_size=40),
) | st.binary(max_size=60).map(lambda tail: b"Exif\0\0" + tail)


class TestDecode:
    @pytest.mark.parametrize(
        ("name", "mode"),
        [
            ("a.png", "RGB"), ("a.jpg", "RGB"), ("a.png", "L"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.png", "P"),
            ("a.png", "RGBA"), ("a.png", "LA"), ("a.png", "1"), ("a.gif", "P"), ("a.bmp", "RGB"), ("a.webp", "RGB"),
            ("a.tif", "RGB"), ("a.ppm", "RGB"),
        ],
    )  # fmt: skip
    def test_every_mode_becomes_rgb(self, tmp_path: Path, name: str, mode: str) -> None:
        image = decode(save(tmp_path / name, mode), None, "crop")
        assert image.shape == (30, 40, 3)
        assert image.dtype == np.uint8
        assert image.std() > 20

    def test_a_program_that_calls_itself_an_image_is_not_run(self, tmp_path: Path) -> None:
        """Pillow would hand PostScript to Ghostscript, whatever the file's name says."""
        path = tmp_path / "evil.png"
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
        with Image.open(path) as opened:
            assert opened.format == "EPS"
        with pytest.raises(ValueError, match="no image, or of a format"):
            decode(path, None, "crop")

    def test_transparent_pixels_lie_over_white(self, tmp_path: Path) -> None:
        pixels = np.zeros((2, 2, 4), dtype=np.uint8)
        pixels[0, 0] = (255, 0, 0, 255)
        pixels[1, 1] = (0, 0, 0, 128)
        Image.fromarray(pixels).save(tmp_path / "a.png")
        image = decode(tmp_path / "a.png", None, "crop")
        assert image[0, 0].tolist() == [255, 0, 0]
        assert image[0, 1].tolist() == [255, 255, 255]
        assert image[1, 1].tolist() == [127, 127, 127]

    def test_sixteen_bits_become_eight(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 257, 65535, 32768]], dtype=np.uint16)).save(tmp_path / "a.png")
        assert decode(tmp_path / "a.png", None, "crop")[0, :, 0].tolist() == [0, 1, 255, 128]

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_unsigned_16_bits_of_a_tiff_become_eight(self, tmp_path: Path, order: str, compressed: bool) -> None:
        path = write_tiff(tmp_path / "a.tif", RAMP.astype(np.uint16) * 257, order=order, compressed=compressed)
        assert decode(path, None, "crop")[..., 2].tolist() == RAMP.tolist()
        halved = decode(path, None, "crop", value_range=(0, 2 * 65535))[..., 0]
        assert np.abs(halved - RAMP / 2).max() <= 0.5
        assert decode(path, None, "crop", value_range=(257 * 60, 257 * 99))[0, :, 1].tolist() == [0, 0, 255, 255]

    @pytest.mark.parametrize("number", [np.uint16, np.float32])
    def test_white_may_be_zero(self, tmp_path: Path, number: type[np.generic]) -> None:
        pixels = RAMP * 257.0 if number == np.uint16 else RAMP / 255
        kind = 1 if number == np.uint16 else 3
        path = write_tiff(tmp_path / "a.tif", pixels.astype(number), kind=kind, photometric=0)
        assert decode(path, None, "crop")[..., 0].tolist() == (255 - RAMP).tolist()
        assert decode(write_tiff(path, RAMP, photometric=0), None, "crop")[..., 0].tolist() == (255 - RAMP).tolist()

    def test_twelve_packed_bits_are_scaled_by_4095(self, tmp_path: Path) -> None:
        """Three hexadecimal digits a pixel."""
        path = write_tiff(tmp_path / "a.tif", np.frombuffer(bytes.fromhex("000fff800010"), np.uint8).reshape(1, 6))
        content = bytearray(path.read_bytes())
        for entry in range(10, 10 + 12 * 9, 12):
            tag = int.from_bytes(content[entry : entry + 2], "little")
            if tag in (256, 258):
                content[entry + 8] = {256: 4, 258: 12}[tag]
        path.write_bytes(content)
        assert decode(path, None, "crop")[0, :, 0].tolist() == [0, 255, 128, 1]

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_floats_from_0_to_1_keep_their_brightness(self, tmp_path: Path, order: str) -> None:
        path = write_tiff(tmp_path / "a.tif", (RAMP / 255).astype(np.float32), kind=3, order=order)
        assert decode(path, None, "crop")[..., 0].tolist() == RAMP.tolist()

    @pytest.mark.parametrize(
        ("number", "kind", "low", "high"),
        [
            (np.int8, 2, -128, 127), (np.int16, 2, -1024, 3071), (np.int32, 2, -(2**31), 2**31 - 1),
            (np.uint32, 1, 0, 2**32 - 1), (np.int32, 2, 0, 255), (np.float32, 3, -5, 250),
        ],
    )  # fmt: skip
    def test_other_numbers_are_scaled_by_the_range_that_is_given_and_refused_without(
        self, tmp_path: Path, number: type[np.generic], kind: int, low: int, high: int
    ) -> None:
        values = low + RAMP.astype(np.float64) / 255 * (high - low)
        path = write_tiff(tmp_path / "a.tif", np.rint(values).astype(number), kind=kind)
        assert np.abs(decode(path, None, "crop", (low, high))[..., 0].astype(int) - RAMP).max() <= 1
        with pytest.raises(ValueError, match=re.escape(f"from {low:g} to {high:g}, ") + ".*; set value_range"):
            decode(path, None, "crop")

    def test_a_pgm_file_states_its_own_range(self, tmp_path: Path) -> None:
        (tmp_path / "a.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([0, 4095, 2048], ">u2").tobytes())
        assert decode(tmp_path / "a.pgm", None, "crop")[0, :, 0].tolist() == [0, 255, 128]
        assert decode(tmp_path / "a.pgm", None, "crop", (0, 8190))[0, :, 0].tolist() == [0, 128, 64]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_no_number_is_refused(self, tmp_path: Path, bad: float) -> None:
        path = write_tiff(tmp_path / "a.tif", np.array([[0, bad, 1]], dtype=np.float32), kind=3)
        for value_range in (None, (0.0, 1.0)):
            with pytest.raises(ValueError, match="NaN or infinite"):
                decode(path, None, "crop", value_range)

    @pytest.mark.parametrize(("number", "kind"), [(np.int16, 2), (np.int32, 2), (np.float32, 3)])
    def test_numbers_whose_bytes_pillow_exchanges_are_refused(
        self, tmp_path: Path, number: type[np.generic], kind: int
    ) -> None:
        path = write_tiff(tmp_path / "a.tif", RAMP.astype(number), kind=kind, order=">", compressed=True)
        with pytest.raises(ValueError, match="big-endian"):
            decode(path, None, "crop", (0, 255))

    def test_a_range_does_not_apply_to_8_bits_nor_to_colours(self, tmp_path: Path) -> None:
        colours = np.arange(60, dtype=np.uint16).reshape(4, 5, 3)
        for path in (save(tmp_path / "a.png"), write_tiff(tmp_path / "a.tif", colours, photometric=2)):
            decode(path, None, "crop")
            with pytest.raises(ValueError, match=r"value_range applies only to grey .*; these are colours; remove"):
                decode(path, None, "crop", (0, 255))

    def test_a_range_does_not_apply_to_grey_with_alpha(self, tmp_path: Path) -> None:
        """Pillow keeps the upper 8 bits of such a PNG of 16 bits."""
        for path in (save(tmp_path / "a.png", "LA"), save(tmp_path / "b.png", "L")):
            kind = "grey with alpha" if path.name == "a.png" else "8-bit grey"
            with pytest.raises(ValueError, match=f"grey pixels without alpha .*; these are {kind}; remove"):
                decode(path, None, "crop", (0, 4095))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("number", [np.uint8, np.uint16])
    @pytest.mark.parametrize(
        ("channels", "photometric", "alpha"), [(3, 2, ()), (4, 2, (2,)), (4, 2, ()), (2, 1, (2,)), (4, 5, ())]
    )
    def test_planes_of_channels_are_put_together_or_refused(
        self,
        tmp_path: Path,
        order: str,
        number: type[np.generic],
        channels: int,
        photometric: int,
        alpha: tuple[int, ...],
    ) -> None:
        pixels = (noise(20, 30, channels).astype(np.uint32) * (257 if number == np.uint16 else 1)).astype(number)
        channel = noise(20, 30, channels) / 255
        if photometric == 5:
            want = (1 - channel[..., :3]) * (1 - channel[..., 3:])
        else:
            opacity = channel[..., -1:] if channels in (2, 4) else np.ones((20, 30, 1))
            want = channel[..., : 3 if channels > 2 else 1] * opacity + 1 - opacity
        for compressed in (False, True):
            path = tmp_path / "a.tif"
            more = [(338, 3, alpha)] if alpha else []
            write_tiff(
                path, pixels, photometric=photometric, order=order, compressed=compressed, planar=True, more=more
            )
            if (channels == 3 or photometric == 5 or (channels == 4 and alpha)) and (number == np.uint8 or compressed):
                assert np.abs(decode(path, None, "crop") / 255 - want).max() < 3 / 255
            else:
                with pytest.raises(ValueError, match=r"PlanarConfiguration 2.* side by side|a kind of pixels that"):
                    decode(path, None, "crop")

    @pytest.mark.parametrize("number", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("photometric", [0, 1])
    def test_one_plane_is_the_image(self, tmp_path: Path, number: type[np.generic], photometric: int) -> None:
        pixels = (RAMP * {np.uint8: 1.0, np.uint16: 257.0, np.float32: 1 / 255}[number]).astype(number)
        kind = 3 if number == np.float32 else 1
        path = write_tiff(tmp_path / "a.tif", pixels, kind=kind, photometric=photometric, planar=True)
        want = RAMP if photometric == 1 else 255 - RAMP
        assert decode(path, None, "crop")[..., 0].tolist() == want.tolist()

    def test_planes_whose_bits_are_reversed_are_refused(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", noise(5, 5, 3), photometric=2, planar=True, more=[(266, 3, 2)])
        with pytest.raises(ValueError, match="PlanarConfiguration 2"):
            decode(path, None, "crop")

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize("scale", [1, 256, 257])
    def test_a_palette_of_8_or_of_16_bits(self, tmp_path: Path, compressed: bool, scale: int) -> None:
        palette = noise(3, 256)
        more = [(320, 3, tuple((palette.astype(int) * scale).ravel().tolist()))]
        path = write_tiff(tmp_path / "a.tif", noise(9, 9, seed=1), photometric=3, compressed=compressed, more=more)
        want = np.moveaxis(palette[:, noise(9, 9, seed=1)], 0, -1)
        assert np.array_equal(decode(path, None, "crop"), want)

    def test_grey_that_is_multiplied_by_its_alpha(self, tmp_path: Path) -> None:
        opacity = noise(9, 9, seed=1).astype(int)
        grey = noise(9, 9).astype(int) * opacity // 255
        pixels = np.stack([grey, opacity], axis=-1).astype(np.uint8)
        image = decode(write_tiff(tmp_path / "a.tif", pixels, more=[(338, 3, 1)]), None, "crop")
        assert np.abs(image[..., 0].astype(int) - (grey + 255 - opacity)).max() <= 1

    def test_pixels_that_pillow_cannot_read_are_told(self, tmp_path: Path) -> None:
        path = write_tiff(tmp_path / "a.tif", RAMP, photometric=0, more=[(266, 3, 2)])
        with pytest.raises(ValueError, match=r"cannot read \(unknown raw mode.*\); convert the image to 8-bit RGB"):
            decode(path, None, "crop")

    @pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
    def test_a_transparent_grey_level_is_white_whatever_the_bits(self, tmp_path: Path, bits: int) -> None:
        numbers = np.linspace(0, 2**bits - 1, min(2**bits, 16)).astype(int)
        levels = np.rint(numbers / (2**bits - 1) * 255)
        for key in [None, *numbers.tolist()]:
            path = write_png(tmp_path / "a.png", numbers[None], bits, key=() if key is None else (key,))
            want = np.where(numbers == key, 255, levels)
            assert decode(path, None, "crop")[0, :, 1].tolist() == want.tolist()

    def test_a_transparent_colour_of_8_bits_is_white(self, tmp_path: Path) -> None:
        pixels = noise(1, 5, 3)
        path = write_png(tmp_path / "a.png", pixels, 8, coloured=True, key=tuple(pixels[0, 3].tolist()))
        want = pixels.copy()
        want[0, 3] = 255
        assert np.array_equal(decode(path, None, "crop"), want)

    def test_a_transparent_colour_of_16_bits_is_refused(self, tmp_path: Path) -> None:
        """Pillow would make white what has the upper bits 0x05, and leave the transparent colour as it is."""
        pixels = np.array([[[0x0505] * 3, [0x1205] * 3, [0x8000] * 3]])
        assert decode(write_png(tmp_path / "a.png", pixels, 16, coloured=True), None, "crop")[0, :, 0].tolist() == [
            5, 18, 128
        ]  # fmt: skip
        write_png(tmp_path / "a.png", pixels, 16, coloured=True, key=(0x1205,) * 3)
        with pytest.raises(ValueError, match=r"transparent colour \(tRNS\).*save it with an alpha channel or as 8-bit"):
            decode(tmp_path / "a.png", None, "crop")

    def test_a_transparent_level_of_16_bits_is_white(self, tmp_path: Path) -> None:
        Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png", transparency=257 * 50)
        assert decode(tmp_path / "a.png", None, "crop")[..., 0].tolist() == np.where(RAMP == 50, 255, RAMP).tolist()

    def test_the_cameras_orientation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # turn right
        Image.fromarray(noise(30, 40, 3)).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(decode(tmp_path / "a.png", None, "crop"), np.rot90(noise(30, 40, 3), -1))

    @pytest.mark.parametrize(("name", "options"), ORIENTED.items())
    def test_the_orientation_is_found_wherever_it_may_be(
        self, tmp_path: Path, name: str, options: dict[str, Any]
    ) -> None:
        Image.fromarray(BLOCKS).save(tmp_path / name, **options)
        image = decode(tmp_path / name, None, "crop").astype(int)
        assert image.shape == (48, 32, 3)
        assert np.abs(image - np.rot90(BLOCKS, -1)).mean() <= (20 if name.endswith("jpg") else 0)

    @pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "CMYK"])
    def test_uncompressed_tiff_images_are_turned_whole(self, tmp_path: Path, mode: str) -> None:
        """Pillow 13 scrambles some of them if it opens them by their name."""
        image = Image.fromarray(noise(30, 40)) if mode != "I;16" else Image.fromarray(np.uint16(257) * noise(30, 40))
        image = image if mode == "I;16" else image.convert("RGB").convert(mode)
        image.save(tmp_path / "upright.tif")
        image.save(tmp_path / "turned.tif", exif=orientation(6))
        upright = decode(tmp_path / "upright.tif", None, "crop")
        assert upright.shape == (30, 40, 3)
        assert np.array_equal(decode(tmp_path / "turned.tif", None, "crop"), np.rot90(upright, -1))

    @pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
    @pytest.mark.parametrize(
        "tag",
        [
            (0x0100, 2, 4, b"wide"),  # the width as text: Pillow fails when it writes the block without the orientation
            (0x011A, 2, 2, b"7\0\0\0"),  # the resolution as text: Pillow fails when it opens a JPEG
        ],
    )
    def test_an_odd_tag_beside_the_orientation_does_no_harm(
        self, tmp_path: Path, ending: str, tag: tuple[int, int, int, bytes]
    ) -> None:
        block = exif_block([(0x0112, 3, 1, b"\6\0\0\0"), (0x0128, 3, 1, b"\2\0\0\0"), tag])
        Image.fromarray(noise(30, 40, 3)).save(tmp_path / f"a.{ending}", exif=block)
        assert decode(tmp_path / f"a.{ending}", None, "crop").shape == (40, 30, 3)

    def test_odd_metadata_of_a_tiff_does_no_harm(self, tmp_path: Path) -> None:
        for tag in ((700, 4, 7), (700, 2, 0x41), (0x8769, 4, 2**31), (0x8825, 9, -5)):
            write_tiff(tmp_path / "a.tif", noise(30, 40), more=[(0x0112, 3, 6), tag])
            assert np.array_equal(decode(tmp_path / "a.tif", None, "crop")[..., 0], np.rot90(noise(30, 40), -1))

    @pytest.mark.filterwarnings("ignore")
    @given(block=EXIF_BLOCKS, ending=st.sampled_from(["jpg", "png", "webp"]))
    @settings(max_examples=150, deadline=None, derandomize=True)
    def test_no_block_of_metadata_spoils_sound_pixels(
        self, tmp_path_factory: pytest.TempPathFactory, block: bytes, ending: str
    ) -> None:
        path = tmp_path_factory.getbasetemp() / f"metadata.{ending}"
        Image.fromarray(BLOCKS).save(path, exif=block)
        image = decode(path, None, "crop").astype(int)
        turned = [np.rot90(blocks, k) for blocks in (BLOCKS, BLOCKS[:, ::-1]) for k in range(4)]
        assert min(np.abs(image - one).mean() for one in turned if one.shape == image.shape) < 20

    @pytest.mark.filterwarnings("ignore")
    @given(
        ending=st.sampled_from(["jpg", "png", "webp", "tif", "gif", "bmp", "ppm"]),
        changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
        side=st.sampled_from([None, 8]),
    )
    @settings(max_examples=150, deadline=None, derandomize=True)
    def test_a_damaged_file_is_decoded_or_refused(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        ending: str,
        changes: list[tuple[int, int]],
        side: int | None,
    ) -> None:
        path = save(tmp_path_factory.getbasetemp() / f"damaged.{ending}", size=(9, 7))
        content = bytearray(path.read_bytes())
        for place, value in changes:
            content[place % len(content)] = value
        path.write_bytes(content)
        with contextlib.suppress(OSError, ValueError):
            assert decode(path, side, "crop").dtype == np.uint8

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "a.png")
        with pytest.raises(ValueError, match="not a regular file"):
            decode(tmp_path / "a.png", None, "crop")

    def test_crop_keeps_the_middle_and_stretch_keeps_all(self, tmp_path: Path) -> None:
        wide = np.zeros((10, 30, 3), dtype=np.uint8)
        wide[:, 10:20] = 255
        Image.fromarray(wide).save(tmp_path / "a.png")
        assert (decode(tmp_path / "a.png", 10, "crop") == 255).all()
        assert decode(tmp_path / "a.png", 30, "stretch")[5].mean(axis=1).tolist() == [0] * 10 + [255] * 10 + [0] * 10

    def test_what_is_no_image_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = save(tmp_path / "a.jpg")
        for content in (b"", b"text", whole.read_bytes()[:300], save(tmp_path / "a.png").read_bytes()[:60]):
            (tmp_path / "broken.jpg").write_bytes(content)
            with pytest.raises((ValueError, OSError)):
                decode(tmp_path / "broken.jpg", None, "crop")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(ValueError, match="40x30 pixels are more than 1000"):
            decode(whole, None, "crop")


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Two classes, images at several depths."""
        folder = tmp_path / "photos"
        for number in range(6):
            save(folder / "cat" / ("deep/er" if number % 2 else "") / f"{number}.png", seed=number)
            save(folder / "dog" / f"{number}.jpg", seed=10 + number)
        (folder / "cat" / "notes.txt").write_text("no image")
        (folder / ".hidden").mkdir()
        (folder / "cat" / ".DS_Store").write_text("")
        return folder

    def data(self, tmp_path: Path, folder: Path, **options: Any) -> DatasetArrays:
        return write_dataset(
            tmp_path / "data", prepare("image_folder", tmp_path, path=str(folder), **options), threads=3
        )

    def test_classes_are_top_folders_and_the_split_is_stratified(self, tmp_path: Path, folder: Path) -> None:
        data = self.data(tmp_path, folder, image_size=8, test_images=4)
        assert data.classes == ["cat", "dog"]
        assert data.train.images.shape == (8, 8, 8, 3)
        assert np.bincount(data.test.labels).tolist() == [2, 2]
        provenance = json.loads((tmp_path / "data" / "provenance.json").read_text())
        assert provenance["path"] == str(folder)
        assert "pillow" in provenance

    def test_the_same_seed_splits_alike_whatever_the_threads(self, tmp_path: Path, folder: Path) -> None:
        options = {"path": str(folder), "image_size": 8, "test_fraction": 0.25}
        manifests = []
        for threads, seed in ((1, 0), (4, 0), (1, 1)):
            write_dataset(tmp_path / "data", prepare("image_folder", tmp_path, **options, split_seed=seed), threads)
            manifests.append((tmp_path / "data" / "dataset.json").read_bytes())
        assert manifests[0] == manifests[1] != manifests[2]

    @pytest.mark.parametrize(
        ("number", "kind", "options", "levels"),
        [
            (np.uint16, 1, {}, (10, 16)),
            (np.uint16, 1, {"value_range": [0, 4095]}, (153, 255)),
            (np.int16, 2, {"value_range": [0, 4095]}, (153, 255)),
        ],
    )
    def test_brightness_alone_tells_classes_apart_and_a_pool_of_few_levels_is_told(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        number: type[np.generic],
        kind: int,
        options: dict[str, Any],
        levels: tuple[int, int],
    ) -> None:
        for name, value in (("dark", 2457), ("light", 4095)):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for k in range(5):
                path = tmp_path / "photos" / name / f"{k}.tif"
                write_tiff(path, np.full((4, 4), value).astype(number), kind=kind)
        data = self.data(tmp_path, tmp_path / "photos", **options)
        assert sorted(data.train.images[:, 0, 0, 0].tolist()) == [levels[0]] * 4 + [levels[1]] * 4
        told = capsys.readouterr().err
        assert ("levels from 10 to 16 of 255" in told) == (not options)
        assert ("set value_range" in told) == (not options)

    @pytest.mark.parametrize("both", [True, False])
    def test_grey_of_8_and_of_16_bits_in_one_data_set_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], both: bool
    ) -> None:
        """Numbers of 12 bits in files of 16 look dark beside 8-bit images, and so would give a class away."""
        for name, deep in (("a", True), ("b", not both)):
            (tmp_path / "photos" / name).mkdir(parents=True)
            for k in range(5):
                levels = np.arange(16).reshape(4, 4) * (4369 if deep else 17)
                image = Image.fromarray(levels.astype(np.uint16 if deep else np.uint8))
                image.save(tmp_path / "photos" / name / f"{k}.png")
        self.data(tmp_path, tmp_path / "photos")
        told = "train images: 4 of 8-bit numbers and 4 of unsigned 16-bit numbers; each kind is scaled by its own range"
        assert (told in capsys.readouterr().err) == both

    def test_a_pool_without_contrast_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        pixels = np.full((6, 4, 4, 1), 7, dtype=np.uint8)
        part = datasets.Images(pixels, np.arange(6) % 2)
        write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))
        assert "every pixel of the training images has the same level, 7 of 255" in capsys.readouterr().err

    def test_defective_pixels_do_not_hide_that_a_pool_has_few_levels(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Two of 2,400 pixels are black and white, and all others have 17 levels."""
        pixels = np.random.default_rng(1).integers(0, 17, size=(6, 20, 20, 1), dtype=np.uint8)
        pixels[0, 0, :2, 0] = 0, 255
        part = datasets.Images(pixels, np.arange(6) % 2)
        write_dataset(tmp_path / "data", Prepared(part, part, ["a", "b"], {}))
        assert "levels from 0 to 16 of 255" in capsys.readouterr().err

    @pytest.mark.parametrize("value_range", [[1, 0], [0, 0], [0], [0, 1, 2], [0, float("nan")]])
    def test_a_range_rises(self, value_range: list[float]) -> None:
        with pytest.raises(ValueError, match="value_range"):
            prepare("image_folder", Path(), path="x", value_range=value_range)

    def test_train_and_test_folders(self, tmp_path: Path, folder: Path) -> None:
        both = tmp_path / "both"
        both.mkdir()
        folder.rename(both / "train")
        for name in ("dog", "cat"):
            save(both / "test" / name / "x.png", seed=99)
        data = self.data(tmp_path, both)
        assert len(data.train.images) == 12
        assert data.test.labels.tolist() == [0, 1]
        save(both / "test" / "horse" / "x.png")
        with pytest.raises(UserError, match=r"test: class 'horse' is not among those of .*train"):
            prepare("image_folder", tmp_path, path=str(both))

    def splits(self, folder: Path, *names: str) -> Path:
        """A folder of splits, each with the classes and its own images."""
        both = folder.parent / "both"
        for number, name in enumerate(names):
            for kind in ("cat", "dog"):
                for k in range(number + 2):
                    save(both / name / kind / f"{k}.png", seed=100 * number + k)
        return both

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("train", "test"), ("Train", "Test"), ("TRAINING", "testing"), ("train", "val"), ("train", "Valid"),
            ("Train", "validation"), ("training", "evaluation"), ("training_set", "test_set"),
            ("train-images", "test images"), ("seg_train/seg_train", "seg_test/seg_test"), ("train2017", "val_2017"),
            ("train_1", "test-v2"), ("2017 train", "2017 eval"), ("train2017/train2017", "test2017/test2017"),
        ],
    )  # fmt: skip
    def test_splits_have_many_names(self, tmp_path: Path, folder: Path, train: str, test: str) -> None:
        both = self.splits(folder, train, test)
        save(both / "seg_pred" / "1.jpg")
        prepared = prepare("image_folder", tmp_path, path=str(both))
        assert prepared.classes == ["cat", "dog"]
        assert prepared.provenance["folders"] == {"train": [train], "test": [test]}
        assert isinstance(prepared.train, ImageFiles)
        assert isinstance(prepared.test, ImageFiles)
        assert prepared.train.paths == [both / train / kind / f"{k}.png" for kind in ("cat", "dog") for k in range(2)]
        assert prepared.test.paths == [both / test / kind / f"{k}.png" for kind in ("cat", "dog") for k in range(3)]

    @pytest.mark.parametrize(
        ("names", "validation", "used", "told"),
        [
            (("train", "test", "val"), None, {"train": ["train"], "test": ["test"]}, "val is not used; set validation"),
            (("train", "test", "val"), "ignore", {"train": ["train"], "test": ["test"]}, "val is not used"),
            (
                ("train", "test", "val"),
                "train",
                {"train": ["train", "val"], "test": ["test"]},
                "val is added to the tr",
            ),
            (("train", "test", "val"), "test", {"train": ["train"], "test": ["val"]}, "both/test is not used"),
            (("train", "val"), None, {"train": ["train"], "test": ["val"]}, "both/val, as there is no test folder"),
            (("train", "val"), "test", {"train": ["train"], "test": ["val"]}, "both/val, as there is no test folder"),
            (("train", "test", "extra"), None, {"train": ["train"], "test": ["test"]}, "passed over 'extra'"),
        ],
    )
    def test_what_a_validation_set_is_for_is_told(
        self,
        tmp_path: Path,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        names: tuple[str, ...],
        validation: str | None,
        used: dict[str, list[str]],
        told: str,
    ) -> None:
        both = self.splits(folder, *names)
        prepared = prepare("image_folder", tmp_path, path=str(both), validation=validation)
        assert prepared.provenance["folders"] == used
        counts = {name: 2 * (number + 2) for number, name in enumerate(names)}
        assert len(prepared.train.labels) == sum(counts[name] for name in used["train"])
        assert len(prepared.test.labels) == sum(counts[name] for name in used["test"])
        assert told in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("names", "options", "problem"),
        [
            (("train", "test"), {"validation": "train"}, "validation has no effect, as there is no validation folder"),
            (("train", "val"), {"validation": "train"}, "validation: train leaves no test set"),
            (("train", "val"), {"validation": "ignore"}, "validation: ignore leaves no test set"),
            (("train", "val"), {"test_fraction": 0.2}, "test_fraction has no effect, as the test set is .*val; remove"),
            (("train", "test"), {"test_images": 4}, "test_images has no effect, as the test set is .*test; remove"),
            (("train", "test"), {"split_seed": 0}, "split_seed has no effect, as the test set is .*test; remove"),
            (("train", "Train", "test"), {}, "'Train', 'train' are both names of the train set"),
            (("train", "test", "Testing"), {}, "'Testing', 'test' are both names of the test set"),
            (("train", "val", "validation"), {}, "'val', 'validation' are both names of the validation set"),
            (("train",), {}, "'train' looks like a split, but there must be train and test, or train and val; place"),
            (("test", "horse"), {}, "'test' looks like a split"),
            (("fold1", "fold2", "fold3"), {}, "'fold1', 'fold2', 'fold3' all hold the same folders, or some of them"),
            (("pool/pool", "holdout"), {}, "'holdout', 'pool' all hold the same folders, or some of them, as if they"),
            (("train2014", "train2017", "val2017"), {}, "'train2014', 'train2017' are both names of the train set"),
        ],
    )
    def test_splits_that_cannot_be_told_apart_are_refused(
        self, tmp_path: Path, folder: Path, names: tuple[str, ...], options: dict[str, Any], problem: str
    ) -> None:
        both = self.splits(folder, *names)
        with pytest.raises(UserError, match=problem):
            prepare("image_folder", tmp_path, path=str(both), **options)

    def test_classes_may_look_like_splits(self, tmp_path: Path, folder: Path) -> None:
        save(folder / "train" / "1.png")  # the vehicle
        save(folder / "train" / "2.png")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog", "train"]
        cameras = self.splits(folder, "camel", "horse")
        with pytest.raises(UserError, match="set top_folders to classes if they are classes"):
            prepare("image_folder", tmp_path, path=str(cameras))
        assert prepare("image_folder", tmp_path, path=str(cameras), top_folders="classes").classes == ["camel", "horse"]

    def test_classes_may_hold_folders_of_their_own_which_is_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cameras = self.splits(folder, "camel", "horse")
        (cameras / "horse" / "cat").rename(cameras / "horse" / "bird")
        assert prepare("image_folder", tmp_path, path=str(cameras)).classes == ["camel", "horse"]
        assert "the top folders are the classes, although there are folders in 'camel', 'horse'" in (
            capsys.readouterr().err
        )
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog"]
        assert capsys.readouterr().err.count("the top folders are the classes") == 0

    @pytest.mark.parametrize(
        ("train", "beside", "told"),
        [
            ("seg_train/seg_train", ["seg_pred/1.png", "seg_pred/2.png"], "'seg_train' looks like a split"),
            ("train/train", ["unlabeled/1.png", "unlabeled/2.png"], "'train' looks like a split"),
            ("train/images", ["unlabeled/1.png", "unlabeled/2.png"], "'train' looks like a split"),
            ("train", ["holdout/cat/1.png", "holdout/dog/1.png"], "'train' looks like a split"),
            ("train2017", ["unlabeled2017/1.png", "unlabeled2017/2.png"], "'train2017' looks like a split"),
            (
                "pool",
                ["holdout/cat/1.png", "holdout/dog/1.png"],
                "'holdout', 'pool' all hold the same folders, or some of them",
            ),
        ],
    )
    def test_a_split_is_not_taken_for_a_class(
        self, tmp_path: Path, folder: Path, train: str, beside: list[str], told: str
    ) -> None:
        both = self.splits(folder, train)
        save(both / Path(train).parts[0] / "cover.png")
        save(both / train / "cow" / "1.png")
        for name in beside:
            save(both / name)
        with pytest.raises(UserError, match=told):
            prepare("image_folder", tmp_path, path=str(both))

    def test_images_beside_the_folders_that_are_used_are_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = self.splits(folder, "train/train", "test")
        for place in (both, both / "train", both / "test"):
            save(place / "loose.png")
        assert prepare("image_folder", tmp_path, path=str(both)).classes == ["cat", "dog"]
        told = capsys.readouterr().err
        for place in (both, both / "train", both / "test"):
            assert f"{place}: passed over 1 image(s) outside of the class folders, as loose.png" in told

    def test_a_part_of_the_pool_may_hold_one_class(self, tmp_path: Path, folder: Path) -> None:
        both = self.splits(folder, "train", "test", "val")
        shutil.rmtree(both / "val" / "cat")
        train = prepare("image_folder", tmp_path, path=str(both), validation="train").train
        assert np.bincount(train.labels).tolist() == [2, 2 + 4]
        for place in ("test", "train"):
            shutil.rmtree(both / place / "cat")
            with pytest.raises(UserError, match=rf"both/{place}: 1 class, 'dog'; .* directly in the folder of the s"):
                prepare("image_folder", tmp_path, path=str(both), validation="train")

    def test_a_split_without_class_folders_is_told_what_to_do(self, tmp_path: Path, folder: Path) -> None:
        both = self.splits(folder, "train", "val")
        save(both / "test" / "1.png")
        with pytest.raises(UserError, match=r"test: this split has no folders of classes; .*set validation to test to"):
            prepare("image_folder", tmp_path, path=str(both))
        assert len(prepare("image_folder", tmp_path, path=str(both), validation="test").test.labels) == 6

    def test_a_class_without_test_images_is_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        both = self.splits(folder, "train", "test")
        save(both / "train" / "horse" / "1.png")
        data = self.data(tmp_path, both)
        assert np.bincount(data.test.labels, minlength=3).tolist() == [3, 3, 0]
        assert "test: no images of 1 class(es), as 'horse'" in capsys.readouterr().err

    def test_a_link_to_a_split_is_no_second_one(self, tmp_path: Path, folder: Path) -> None:
        both = self.splits(folder, "train", "val")
        (both / "Training").symlink_to(both / "train")
        assert prepare("image_folder", tmp_path, path=str(both)).provenance["folders"]["train"] == ["train"]

    @pytest.mark.parametrize(
        ("damage", "options", "problem"),
        [
            (
                lambda folder: folder.rename(folder.parent / "gone"),
                {},
                "photos: no such folder; place the images there",
            ),
            (lambda folder: (folder / "empty").mkdir(), {}, "empty: a class without images"),
            (lambda folder: (folder / "dog").rename(folder / "cat" / "dog"), {}, r"1 class\(es\)"),
            (
                lambda folder: save(folder / "rare" / "1.png"),
                {},
                r"class 'rare' has 1 image\(s\), but a split needs two",
            ),
            (lambda folder: None, {"test_images": 1}, "test_images: 1 of 12 images in 2 classes"),
            (
                lambda folder: save(folder / "dog" / "9.jpg", size=(9, 9)),
                {},
                r"different sizes \(40x30 and 9x9\); set image_size",
            ),
        ],
    )
    def test_what_is_wrong_is_told(
        self, tmp_path: Path, folder: Path, damage: Callable[[Path], object], options: dict[str, Any], problem: str
    ) -> None:
        damage(folder)
        with pytest.raises(UserError, match=problem):
            self.data(tmp_path, folder, **options)

    def test_hundreds_of_unreadable_images_are_listed_in_a_file(
        self, tmp_path: Path, folder: Path, lplgrad: Call
    ) -> None:
        for number in range(300):
            (folder / "dog" / f"broken{number}.jpg").write_bytes(b"\xff\xd8 no more")
        settings = f"{{source: image_folder, path: '{folder}', image_size: 8}}"
        arguments = ["prepare", "--settings", settings, "--downloads", tmp_path, "--output", tmp_path / "data"]
        status, told = lplgrad(*arguments)
        assert status == 1
        listed = tmp_path / "data" / "unreadable.tsv"
        assert len(listed.read_text().splitlines()) >= 200
        assert told.count("broken") == 1
        assert str(listed) in told.splitlines()[-1]
        assert not (tmp_path / "data" / "dataset.json").exists()

    def test_unreadable_images_of_both_splits_are_listed_until_they_are_mended(
        self, tmp_path: Path, folder: Path, lplgrad: Call
    ) -> None:
        whole = (folder / "dog" / "0.jpg").read_bytes()
        for split in ("train", "test"):
            shutil.copytree(folder, tmp_path / "both" / split)
            for number in range(6):
                (tmp_path / "both" / split / "dog" / f"{number}.jpg").write_bytes(b"")
        (tmp_path / "both/train/cat").rename(tmp_path / "cats")  # nothing of this split can be read
        (tmp_path / "both/train/cat").mkdir()
        (tmp_path / "both/train/cat/0.png").write_bytes(b"")
        settings = f"{{source: image_folder, path: '{tmp_path / 'both'}'}}"
        arguments = ["prepare", "--settings", settings, "--output", tmp_path / "data"]
        status, told = lplgrad(*arguments)
        assert status == 1
        assert "error: 13 of 19 images cannot be read" in told
        listed = tmp_path / "data" / "unreadable.tsv"
        assert len(listed.read_text().splitlines()) == 13
        for path in [Path(line.split("\t")[0]) for line in listed.read_text().splitlines()]:
            path.write_bytes(whole)
        assert lplgrad(*arguments)[0] == 0
        assert not listed.exists()

    def test_a_system_that_cannot_claim_space_beforehand(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr("os.posix_fallocate")
        assert len(self.data(tmp_path, folder).train.images) == 10

    def test_settings_that_came_later_are_described_only_if_given(self) -> None:
        before = {"path": "x", "image_size": None, "fit": "crop", "test_images": None, "test_fraction": None}
        assert image_folder.Options(path="x").model_dump() == {**before, "split_seed": 0}
        given: dict[str, Any] = {"top_folders": "classes", "validation": "test", "value_range": [0, 4095]}
        assert image_folder.Options(path="x", **given).model_dump() == {**before, "split_seed": 0, **given}

    def test_one_of_two_ways_to_say_how_many_are_held_out(self, tmp_path: Path, lplgrad: Call) -> None:
        settings = "{source: image_folder, path: x, test_images: 3, test_fraction: 0.5}"
        status, told = lplgrad("prepare", "--settings", settings, "--output", tmp_path / "data")
        assert status == 1
        assert "test_fraction: test_images is given too; give one of them" in told

    def test_links_are_followed_and_never_round(self, tmp_path: Path, folder: Path) -> None:
        (folder / "dog").rename(tmp_path / "elsewhere")
        (folder / "dog").symlink_to(tmp_path / "elsewhere")
        (folder / "cat" / "round").symlink_to(folder / "cat")
        (folder / "cat" / "itself").symlink_to("itself")
        (folder / "cat" / "6.png").symlink_to(save(tmp_path / "outside.png", seed=77))
        data = self.data(tmp_path, folder, image_size=8)
        assert np.bincount(np.concatenate([data.train.labels, data.test.labels])).tolist() == [7, 6]

    @pytest.mark.parametrize("link", ["a", "z"])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_an_image_is_listed_once_by_its_real_path_whatever_the_order_of_the_disk(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, link: str, backwards: bool
    ) -> None:
        (folder / "cat" / link).symlink_to(folder / "cat" / "deep")
        (folder / "cat" / f"{link}.png").symlink_to(folder / "cat" / "2.png")
        scandir = os.scandir
        monkeypatch.setattr(
            "os.scandir", lambda place: sorted(scandir(place), key=lambda entry: entry.name, reverse=backwards)
        )
        files = image_folder._files_below(folder / "cat")
        names = [path.relative_to(folder / "cat").as_posix() for path in files]
        assert names == ["0.png", "2.png", "4.png", "deep/er/1.png", "deep/er/3.png", "deep/er/5.png", "notes.txt"]

    @pytest.mark.parametrize(
        ("link", "target"),
        [("dog/7.png", "cat/0.png"), ("bird", "dog"), ("dog/cats", "cat/deep"), ("dog/up", "")],
    )
    def test_an_image_in_two_classes_is_refused(self, tmp_path: Path, folder: Path, link: str, target: str) -> None:
        (folder / link).symlink_to(folder / target)
        with pytest.raises(UserError, match=r"photos/.*g: is the same file as .*photos/.*g through a link"):
            prepare("image_folder", tmp_path, path=str(folder))

    def test_an_image_in_both_splits_is_refused(self, tmp_path: Path, folder: Path) -> None:
        shutil.copytree(folder, tmp_path / "both/test")
        folder.rename(tmp_path / "both/train")
        (tmp_path / "both/test/cat/x.png").symlink_to(tmp_path / "both/train/cat/0.png")
        with pytest.raises(UserError, match=r"both/test/cat/x.png: is the same file as .*both/train/cat/0.png"):
            prepare("image_folder", tmp_path, path=str(tmp_path / "both"))

    def test_a_folder_that_cannot_be_read_is_not_passed_over(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scandir = os.scandir

        def refuse(place: Path) -> Any:
            if Path(place).name == "deep":
                raise PermissionError(errno.EACCES, "Permission denied", str(place))
            return scandir(place)

        monkeypatch.setattr("os.scandir", refuse)
        with pytest.raises(PermissionError, match="deep"):
            image_folder._files_below(folder / "cat")

    def test_what_lies_outside_of_the_classes_is_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(folder / "loose.png")
        save(folder / "__MACOSX" / "cat" / "1.png")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["cat", "dog"]
        assert "passed over 1 image(s) outside of the class folders, as loose.png" in capsys.readouterr().err

    def test_the_two_ways_to_write_an_accent_are_one_name(self, tmp_path: Path, folder: Path) -> None:
        composed, decomposed = "caf\xe9", "cafe\u0301"
        shutil.copytree(folder, tmp_path / "both/train")
        shutil.copytree(folder, tmp_path / "both/test")
        (tmp_path / "both/train/cat").rename(tmp_path / "both/train" / decomposed)
        (tmp_path / "both/test/cat").rename(tmp_path / "both/test" / composed)
        assert prepare("image_folder", tmp_path, path=str(tmp_path / "both")).classes == [composed, "dog"]
        (tmp_path / "both/train/dog").rename(tmp_path / "both/train" / composed)
        with pytest.raises(UserError, match=r"the folders 'cafe\\u0301' and 'caf\\xe9' have the same name in Unicode"):
            prepare("image_folder", tmp_path, path=str(tmp_path / "both"))

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            (b"caf\xe9", r"photos/caf\\xe9: the name of this class is not UTF-8; rename the folder"),
            (b"a\tb\nc", r"the name 'a\\tb\\nc' of a class cannot be printed"),
            (b"  ", r"the name '  ' of a class cannot be printed"),
            ("\u200b\xa0".encode(), r"the name '\\u200b\\xa0' of a class cannot be printed"),
            (b"\x1b[31mred", r"the name '\\x1b\[31mred' of a class cannot be printed"),
        ],
    )
    def test_a_class_whose_name_cannot_be_printed_is_refused_at_once(
        self, tmp_path: Path, folder: Path, name: bytes, told: str
    ) -> None:
        (folder / "dog").rename(folder / os.fsdecode(name))
        with pytest.raises(UserError, match=told):
            prepare("image_folder", tmp_path, path=str(folder))

    def test_classes_that_differ_in_case_only_are_two_and_told(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if (folder / "DOG").exists():
            pytest.skip("a file system that ignores case")
        shutil.copytree(folder / "dog", folder / "Dog")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["Dog", "cat", "dog"]
        assert "the classes 'Dog' and 'dog' differ in case only, and are kept apart" in capsys.readouterr().err

    def test_classes_that_look_alike_are_not_said_to_differ_in_case(
        self, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "cat").rename(folder / "fi")
        (folder / "dog").rename(folder / "\ufb01")
        assert prepare("image_folder", tmp_path, path=str(folder)).classes == ["fi", "\ufb01"]
        assert r"the classes 'fi' and '\ufb01' differ only in characters that Unicode takes" in capsys.readouterr().err

    def test_names_of_files_may_be_anything(self, tmp_path: Path, folder: Path, lplgrad: Call) -> None:
        names = [b"caf\xe9.png", b"a\tb\nc.png", b"x" * 251 + b".png", "caf\xe9.png".encode()]
        for name in names:
            shutil.copy(folder / "cat/0.png", folder / "cat" / os.fsdecode(name))
        output = tmp_path / "data"
        arguments = ["prepare", "--settings", f"{{source: image_folder, path: '{folder}'}}", "--output", output]
        assert lplgrad(*arguments)[0] == 0
        assert len(open_dataset(output).train.images) + len(open_dataset(output).test.images) == 16
        for name in names:
            (folder / "cat" / os.fsdecode(name)).write_bytes(b"")
        status, told = lplgrad(*arguments)
        assert status == 1
        assert r"4 of 16 images cannot be read, the first is " in told
        listed = [line.split("\t") for line in (output / "unreadable.tsv").read_text(encoding="utf-8").splitlines()]
        assert all(len(line) == 2 for line in listed)
        assert {Path(line[0]).name for line in listed} == {
            r"caf\xe9.png", r"a\tb\nc.png", "x" * 251 + ".png", "caf\xe9.png"
        }  # fmt: skip

    @pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
    def test_an_archive_of_a_folder(self, tmp_path: Path, folder: Path, ending: str) -> None:
        archive = tmp_path / f"photos{ending}"
        if ending == ".zip":
            with zipfile.ZipFile(archive, "w") as packed:
                for path in sorted(folder.rglob("*.*g")):
                    packed.write(path, path.relative_to(tmp_path))
        else:
            with tarfile.open(archive, "w:gz") as packed:
                packed.add(folder, "photos")
        from_archive = self.data(tmp_path, archive, image_size=8)
        labels = from_archive.train.labels.copy()
        assert np.array_equal(labels, self.data(tmp_path, folder, image_size=8).train.labels)


def test_a_split_keeps_the_proportions_and_follows_its_seed() -> None:
    labels = np.repeat(np.arange(5), [100, 50, 30, 10, 10])
    train, test = stratified_split(labels, list("abcde"), 60, split_seed=0)
    assert np.bincount(labels[test]).tolist() == [30, 15, 9, 3, 3]
    assert sorted([*train, *test]) == list(range(200))
    assert not np.array_equal(test, stratified_split(labels, list("abcde"), 60, split_seed=1)[1])


class TestAvailability:
    def test_without_network_it_says_what_to_place_where(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("urllib.request.getproxies", dict)
        monkeypatch.setattr("socket.create_connection", _no_network)
        for name, words in (
            ("cifar10", f"place cifar-10-python.tar.gz in {tmp_path}"),
            ("cifar100", f"place cifar-100-python.tar.gz in {tmp_path}"),
            ("svhn", f"place train_32x32.mat and test_32x32.mat in {tmp_path / 'svhn'}"),
            ("caltech101", f"place the folder 101_ObjectCategories in {tmp_path / 'caltech101'}"),
        ):
            told = unavailable(name, tmp_path)
            assert told is not None
            assert words in told

    @pytest.fixture
    def host(self) -> Iterator[str]:
        """A host that sends the file /there, but not to HEAD, and refuses all others."""

        class Host(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response({"/there": 200, "/moved": 302}.get(self.path) or int(self.path[1:]))
                self.send_header("Location", "/there")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Host) as server:
            threading.Thread(target=server.serve_forever).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    @pytest.mark.parametrize("code", [403, 404, 410, 429, 500, 503])
    def test_a_host_that_refuses_is_as_good_as_none(self, host: str, code: int) -> None:
        told = _torchvision.unreachable(f"{host}/{code}")
        assert told is not None
        assert f"{host}/{code} answers {code}" in told

    @pytest.mark.parametrize("path", ["there", "moved"])
    def test_a_host_that_sends_is_asked_as_the_download_asks(self, host: str, path: str) -> None:
        assert _torchvision.unreachable(f"{host}/{path}") is None

    def test_a_failed_download_leaves_the_data_set_out_until_its_file_is_deleted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(_torchvision, "urlopen", lambda *arguments, **options: contextlib.nullcontext())
        study = read_study([Path(__file__).parents[1] / "config.yaml"], {"run": {"datasets": ["cifar10"]}})
        arguments = ["prepare", "--settings", "{source: cifar10}", "--output", "data/cifar10"]

        def changed(*arguments: object, **options: object) -> None:
            raise RuntimeError("File not found or corrupted.")

        monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", changed)
        assert unavailable_datasets(study) == {}
        status, told = lplgrad(*arguments)
        assert status == 1
        assert "place cifar-10-python.tar.gz in data/downloads by hand, delete data/cifar10/failed_download.txt" in told
        reason = unavailable_datasets(study)["cifar10"]
        assert told.startswith(f"lplgrad prepare: error: {reason}; until then, studies that have no results of it")

        started = tmp_path / "results/paper/low/cifar10"
        started.mkdir(parents=True)
        assert unavailable_datasets(study) == {}, "what has results is never left out"
        started.rmdir()
        (tmp_path / "data/cifar10/dataset.json").write_text("{}")
        assert unavailable_datasets(study) == {}, "nor what is prepared"
        (tmp_path / "data/cifar10/dataset.json").unlink()
        (tmp_path / "data/cifar10/failed_download.txt").unlink()
        assert unavailable_datasets(study) == {}

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
    def test_a_disk_that_cannot_be_written_is_no_failed_download(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lplgrad: Call, number: int
    ) -> None:
        def full(*arguments: object, **options: object) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", full)
        place = ["--downloads", tmp_path, "--output", tmp_path / "data"]
        assert lplgrad("prepare", "--settings", "{source: cifar10}", *place) == (
            1,
            f"lplgrad prepare: error: {tmp_path}: no\n",
        )
        assert not (tmp_path / "data").exists()

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert unavailable("image_folder", tmp_path, path=str(tmp_path)) is None
        told = unavailable("image_folder", tmp_path, path=str(tmp_path / "none"))
        assert told == f"{tmp_path / 'none'} does not exist; place the images there, a folder for each class"


def _no_network(*arguments: object, **options: object) -> None:
    raise OSError("network is unreachable")
