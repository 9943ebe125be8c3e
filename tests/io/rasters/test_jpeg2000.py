"""JPEG 2000, written by imagecodecs and, in 8 bits, by Pillow."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_shape, read_raster


def ramp(dtype, bits, channels):
    signed = np.dtype(dtype).kind == "i"
    values = np.arange(9 * 11 * channels) * 7919 % (1 << bits) - (1 << bits - 1) * signed
    return values.astype(dtype).reshape(9, 11, channels)


@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize(("dtype", "bits"), [("u1", 8), ("u2", 12), ("u2", 15), ("u2", 16), ("i2", 12), ("i2", 16)])
def test_every_depth_is_kept(container, channels, dtype, bits):
    values = ramp(dtype, bits, channels)
    flat = values[:, :, 0] if channels == 1 else values
    data = imagecodecs.jpeg2k_encode(flat, codecformat=container, reversible=True, bitspersample=bits, mct=False)
    got = read_raster(io.BytesIO(data), limited=True).values
    assert got.dtype == values.dtype
    assert np.array_equal(got, values)
    assert raster_shape(io.BytesIO(data)) == values.shape


def test_pillow_writes_what_we_read():
    values = ramp("u1", 8, 3)
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG2000", irreversible=False)
    assert np.array_equal(read_raster(stream).values, values)


def test_damage_and_a_size_that_is_not_the_pixels_are_refused():
    data = imagecodecs.jpeg2k_encode(ramp("u2", 16, 3), codecformat="jp2", reversible=True)
    for length in range(12, 200, 9):
        with pytest.raises(BrokenImage):
            read_raster(io.BytesIO(data[:length]))
    color = data.index(b"colr") + 4
    assert data[color : color + 7] == b"\1\0\0\0\0\0\x10"  # sRGB
    with pytest.raises(BrokenImage, match="its colours are YCbCr"):
        read_raster(io.BytesIO(data[: color + 6] + b"\x12" + data[color + 7 :]))
    wide = bytearray(data)
    place = data.index(b"\xff\x4f\xff\x51") + 8
    wide[place : place + 8] = b"\x7f\xff\xff\xff" * 2
    with pytest.raises(BrokenImage, match="it has 2147483647x2147483647 pixels"):
        read_raster(io.BytesIO(wide), limited=True)
