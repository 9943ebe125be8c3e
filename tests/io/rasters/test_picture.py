"""Pillow's formats as numbers."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster

RANDOM = np.random.default_rng(0)


def saved(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream


def grey_png(rows, bits, transparent=None):
    """A grey PNG whose packed rows are given."""
    chunks = [(b"IHDR", struct.pack(">2I5B", len(rows[0]) * 8 // bits, len(rows), bits, 0, 0, 0, 0))]
    chunks += [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_8_bit_values_are_not_changed(mode):
    values = RANDOM.integers(0, 256, (5, 7, len(mode)), np.uint8)
    profile = b"what means nothing here"
    stream = saved(Image.frombytes(mode, (7, 5), values.tobytes()), "PNG", icc_profile=profile)
    got = read_raster(stream)
    assert got.values.dtype == np.uint8
    assert np.array_equal(got.values, values)
    assert raster_shape(stream) == values.shape


def test_cmyk_keeps_four_channels_and_exif_turns():
    values = RANDOM.integers(0, 256, (5, 7, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = saved(Image.frombytes("CMYK", (7, 5), values.tobytes()), "JPEG", exif=exif, quality=100)
    with Image.open(stream) as image:
        expected = np.rot90(np.asarray(image), -1)
    assert np.array_equal(read_raster(stream).values, expected)
    assert raster_shape(stream) == (7, 5, 4)


def test_12_bits_in_a_16_bit_grey_png_keep_their_values():
    values = np.arange(0, 4095, 117, dtype=np.uint16).reshape(5, 7)
    got = read_raster(saved(Image.fromarray(values), "PNG")).values
    assert got.dtype == np.uint16
    assert np.array_equal(got[:, :, 0], values)


@pytest.mark.parametrize(("bits", "row"), [(1, 0b01001101), (2, 0b00011011), (4, 0b00011111)])
def test_fewer_bits_are_not_stretched(bits, row):
    expected = [row >> place & (1 << bits) - 1 for place in range(8 - bits, -1, -bits)]
    got = read_raster(grey_png([bytes([row])], bits)).values
    assert got.dtype == np.uint8
    assert got[0, :, 0].tolist() == expected


def test_a_transparent_colour_becomes_alpha():
    got = read_raster(grey_png([bytes([0b00011011])], 2, transparent=2)).values
    assert got[0].tolist() == [[0, 3], [1, 3], [2, 0], [3, 3]]
    values = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    got = read_raster(saved(Image.fromarray(values), "PNG", transparency=(4, 5, 6))).values
    assert got[0].tolist() == [[1, 2, 3, 255], [4, 5, 6, 0]]


def test_a_palette_is_applied_with_its_alpha():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
    image.putpalette([9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert read_raster(saved(image, "PNG")).values[0].tolist() == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    assert read_raster(saved(image, "PNG", transparency=b"\xff\x80")).values[0, 1].tolist() == [6, 5, 4, 128]


def test_frames_that_are_not_used_are_said():
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (0, 100, 200)]
    stream = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert raster_pages(stream) == 1
    assert read_raster(stream).remarks == ("has 2 more frames, not used",)


@pytest.mark.parametrize(
    "data",
    [
        b"P5 2 1 1000\n\0\1\3\xe8",  # which Pillow stretches to 16 bits
        b"P5 2 1 15\n\1\2",
        b"P6 1 1 65535\n\0\1\3\xe8\0\1",  # which it cuts to 8
        b"P3 1 1 1023\n1 2 3\n",
    ],
)
def test_what_pillow_scales_is_refused(data):
    with pytest.raises(BrokenImage, match=r"it is a PPM of .* bits, which would be cut to 8 or scaled"):
        read_raster(io.BytesIO(data))


def test_16_bits_of_portable_formats_are_kept():
    values = np.arange(0, 65536, 1111, dtype=np.uint16)[:35].reshape(5, 7)
    stream = io.BytesIO(b"P5 7 5 65535\n" + values.astype(">u2").tobytes())
    assert np.array_equal(read_raster(stream).values[:, :, 0], values)
    floats = np.linspace(-1000, 1e6, 35, dtype=np.float32).reshape(5, 7)
    assert np.array_equal(read_raster(saved(Image.fromarray(floats), "PPM")).values[:, :, 0], floats)
