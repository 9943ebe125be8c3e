"""Every mode of a PIL image, and every orientation, becomes the right uint8 pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from latent_ae.io.image import BrokenImage, open_image, to_pil, to_uint8
from tests.image_files import TURNS, chunk, encoded, noise

ORIENTATION = 0x0112


def png(width: int, depth: int, color: int, row: bytes, *, transparent: bytes = b"", palette: bytes = b"") -> bytes:
    """A PNG of one row, of kinds that PIL cannot write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0)
    parts = [chunk(b"IHDR", header)]
    parts += [chunk(b"PLTE", palette)] if palette else []
    parts += [chunk(b"tRNS", transparent)] if transparent else []
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")])


def gray_row(image: Image.Image) -> list[int]:
    return to_uint8(image, 1)[0, :, 0].tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_come_upright_and_are_turned_once(kind: str, orientation: int) -> None:
    pixels = noise()
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    opened = open_image(io.BytesIO(encoded(to_pil(pixels), kind, exif=exif)))
    upright = TURNS[orientation](pixels)
    assert opened.size == (upright.shape[1], upright.shape[0])
    assert np.array_equal(to_uint8(opened, 3), upright)


def test_an_image_that_was_opened_elsewhere_is_turned_too() -> None:
    pixels = noise()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(io.BytesIO(encoded(to_pil(pixels), exif=exif))) as image:
        assert np.array_equal(to_uint8(image, 3), np.rot90(pixels, -1))


def test_colour_and_grey() -> None:
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    assert gray_row(to_pil(colors)) == [76, 150, 29, 9]  # ITU-R 601: .299 R + .587 G + .114 B
    assert to_uint8(Image.new("L", (2, 1), 77), 3).tolist() == [[[77] * 3] * 2]


@pytest.mark.parametrize("channels", [0, 5])
def test_other_channel_counts_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=rf"1 \(grey\) to 4 \(RGBA\) channels, got {channels}"):
        to_uint8(Image.new("L", (2, 1)), channels)


def palette_and_alpha_image(alpha: int) -> Image.Image:
    image = Image.frombytes("PA", (1, 1), bytes([0, alpha]))
    image.putpalette([200, 0, 100])
    return image


def palette_image(mode: str, entries: list[int]) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette(entries, mode)
    image.putpixel((1, 0), 1)
    return image


RED = [255, 0, 0]
OPAQUE = {
    "1": (Image.new("1", (1, 1), 1), [255, 255, 255]),
    "L": (Image.new("L", (1, 1), 200), [200, 200, 200]),
    "P": (palette_image("RGB", [1, 2, 3, 4, 5, 6]), [1, 2, 3]),
    "RGB": (Image.new("RGB", (1, 1), (1, 2, 3)), [1, 2, 3]),
    "RGBX": (Image.new("RGBX", (1, 1), (1, 2, 3, 0)), [1, 2, 3]),
    "CMYK": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), RED),
    "HSV": (Image.new("HSV", (1, 1), (0, 255, 255)), RED),
}


@pytest.mark.parametrize("mode", OPAQUE)
def test_opaque_modes(mode: str) -> None:
    image, color = OPAQUE[mode]
    assert image.mode == mode
    assert to_uint8(image, 3)[0, 0].tolist() == color


@pytest.mark.parametrize(
    "image",
    [
        Image.new("YCbCr", (1, 1), (76, 85, 255)),
        Image.frombytes("LAB", (1, 1), bytes([138, 81, 70])),  # L* 54, a* 81, b* 70
        open_image(io.BytesIO(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))),
    ],
    ids=lambda image: image.mode,
)
def test_modes_that_hold_red_but_for_rounding(image: Image.Image) -> None:
    assert np.abs(to_uint8(image, 3)[0, 0].astype(int) - RED).max() <= 6
    assert abs(gray_row(image)[0] - 76) <= 3


HALF_PURPLE_OVER = [105, 10, 65]  # (128 * (200, 0, 100) + 127 * (10, 20, 30)) / 255 = 105.4, 9.96, 65.1
BACKGROUND = (10, 20, 30)
HALF_PURPLE = {
    "RGBA": Image.new("RGBA", (1, 1), (200, 0, 100, 128)),
    "RGBa": Image.new("RGBa", (1, 1), (100, 0, 50, 128)),  # multiplied by alpha already
    "P, RGBA palette": palette_image("RGBA", [200, 0, 100, 128, 0, 0, 0, 0]),
    "PA": palette_and_alpha_image(128),
    "P, tRNS": open_image(io.BytesIO(png(1, 8, 3, b"\0", transparent=b"\x80", palette=bytes([200, 0, 100])))),
}


@pytest.mark.parametrize("kind", HALF_PURPLE)
def test_colour_is_laid_over_the_background(kind: str) -> None:
    over = to_uint8(HALF_PURPLE[kind], 3, BACKGROUND)[0, 0]
    tolerance = 1 if kind == "RGBa" else 0  # dividing by alpha rounds
    assert np.abs(over.astype(int) - HALF_PURPLE_OVER).max() <= tolerance


def test_grey_is_laid_over_a_coloured_background() -> None:
    image = Image.new("LA", (1, 1), (200, 128))
    assert to_uint8(image, 3, BACKGROUND)[0, 0].tolist() == [105, 110, 115]  # 105.4, 110.4, 115.3
    assert gray_row(image) == [227]  # over white: 227.4
    premultiplied = Image.frombytes("La", (1, 1), bytes([100, 128]))
    assert abs(gray_row(premultiplied)[0] - 227) <= 1


def test_alpha_at_its_ends_is_exact() -> None:
    pixels = np.dstack([noise(2, 8), np.array([[0] * 8, [255] * 8], np.uint8)])
    over = to_uint8(Image.fromarray(pixels), 3, BACKGROUND)
    assert over[0].tolist() == [list(BACKGROUND)] * 8
    assert np.array_equal(over[1], pixels[1, :, :3])


TRANSPARENT = 255  # where the background, white, shows
SINGLE_TRANSPARENT_COLOR = {
    "1 bit": (png(2, 1, 0, b"\x40", transparent=b"\0\1"), [0, TRANSPARENT]),
    "1 bit, black": (png(2, 1, 0, b"\x80", transparent=b"\0\0"), [255, TRANSPARENT]),
    "2 bits": (png(4, 2, 0, b"\x1b", transparent=b"\0\1"), [0, TRANSPARENT, 170, 255]),
    "4 bits": (png(2, 4, 0, b"\x12", transparent=b"\0\1"), [TRANSPARENT, 34]),
    "8 bits": (png(2, 8, 0, b"\x01\x22", transparent=b"\0\1"), [TRANSPARENT, 34]),
    "16 bits": (png(2, 16, 0, b"\x22\x22\x22\x23", transparent=b"\x22\x22"), [TRANSPARENT, 34]),
    "colour": (png(2, 8, 2, b"\x01\x02\x03\x22\x22\x22", transparent=b"\0\1\0\2\0\3"), [TRANSPARENT, 34]),
}


@pytest.mark.parametrize("kind", SINGLE_TRANSPARENT_COLOR)
def test_one_transparent_colour_of_a_png(kind: str) -> None:
    data, expected = SINGLE_TRANSPARENT_COLOR[kind]
    assert gray_row(open_image(io.BytesIO(data))) == expected


def test_a_transparent_colour_that_cannot_be_told_is_refused() -> None:
    image = open_image(io.BytesIO(png(1, 16, 2, b"\x01\x02\x03\x04\x05\x06", transparent=b"\x01\x02\x03\x04\x05\x06")))
    with pytest.raises(BrokenImage, match="transparent colour"):
        to_uint8(image, 3)


def test_gif_transparency() -> None:
    image = palette_image("RGB", [1, 2, 3, 4, 5, 6])
    opened = open_image(io.BytesIO(encoded(image, "GIF", transparency=1)))
    assert to_uint8(opened, 3, BACKGROUND)[0].tolist() == [[1, 2, 3], [10, 20, 30]]


SIXTEEN_BITS = [0, 128, 129, 257, 33023, 65535]
EIGHT_BITS = [0, 0, 1, 1, 128, 255]  # v / 257 rounded: 33023 is 128.49


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I"])
def test_sixteen_bits_are_rounded_to_eight(mode: str) -> None:
    image = Image.new(mode, (len(SIXTEEN_BITS), 1))
    image.putdata(SIXTEEN_BITS)
    assert gray_row(image) == EIGHT_BITS


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_files(kind: str) -> None:
    image = Image.fromarray(np.array([SIXTEEN_BITS], np.uint16))
    assert gray_row(open_image(io.BytesIO(encoded(image, kind)))) == EIGHT_BITS


@pytest.mark.parametrize("value", [-1, 65536])
def test_integers_beyond_sixteen_bits_are_refused(value: int) -> None:
    with pytest.raises(BrokenImage, match=rf"expected integers in 0\.\.65535 in mode I, got {value}\.\.{value}"):
        to_uint8(Image.new("I", (1, 1), value), 1)


def test_floats_are_shares_of_white() -> None:
    image = Image.fromarray(np.array([[0, 0.5, 1 / 255, 1]], np.float32))
    assert gray_row(image) == [0, 128, 1, 255]


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, float("nan"), float("inf")])
def test_other_floats_are_refused(value: float) -> None:
    with pytest.raises(BrokenImage, match=r"expected floats in \[0, 1\] in mode F"):
        to_uint8(Image.fromarray(np.array([[0.5, value]], np.float32)), 1)
