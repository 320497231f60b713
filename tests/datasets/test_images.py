"""Image files of every kind become 8-bit RGB, or are refused."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lplgrad.datasets.prepared.images import decode
from tests.image_files import XMP, exif_block, noise, orientation, raw_profile, save, write_png, write_tiff, xmp_text

RAMP = np.array([[0, 50, 100, 200], [1, 128, 254, 255]], dtype=np.uint8)
BLOCKS = noise(2, 3, 3).repeat(16, axis=0).repeat(16, axis=1)  # which JPEG hardly changes
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
