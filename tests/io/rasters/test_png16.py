"""PNG of 16 bits in colour, written by imagecodecs."""

import io

import imagecodecs
import numpy as np
import pytest

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_shape, read_raster


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_kept_in_every_colour_type(channels):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, channels), np.uint16)
    stream = io.BytesIO(imagecodecs.png_encode(values.squeeze(2) if channels == 1 else values))
    got = read_raster(stream, limited=True).values
    assert got.dtype == np.uint16
    assert np.array_equal(got, values)
    assert raster_shape(stream) == values.shape


def test_a_cut_file_is_refused():
    data = imagecodecs.png_encode(np.random.default_rng(0).integers(0, 65536, (15, 17, 3), np.uint16))
    for length in range(30, len(data) - 16, 97):
        with pytest.raises(BrokenImage):
            read_raster(io.BytesIO(data[:length]))
