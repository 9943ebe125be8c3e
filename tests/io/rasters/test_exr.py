"""OpenEXR, written by its own library."""

import io

import numpy as np
import OpenEXR
import pytest

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster

WINDOW = (np.array([0, 0], np.int32), np.array([6, 4], np.int32))


def ramp(dtype, first=0):
    return (np.linspace(-2.5, 60000, 35) + first).astype(dtype).reshape(5, 7)


def written(tmp_path, channels, **header):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    OpenEXR.File(header, dict(channels)).write(str(tmp_path / "file.exr"))
    return tmp_path / "file.exr"


@pytest.mark.parametrize("dtype", ["f2", "f4", "u4"])
@pytest.mark.parametrize("kind", [OpenEXR.scanlineimage, OpenEXR.tiledimage])
def test_channels_are_r_g_b_a_and_then_others_by_name(tmp_path, dtype, kind):
    names = ["R", "G", "B", "A", "Z", "depth.V", "light.R", "light.G", "light.B"]
    channels = {name: ramp(dtype, first=number).clip(0) for number, name in enumerate(names)}
    tiles = {"tiles": OpenEXR.TileDescription()} if kind == OpenEXR.tiledimage else {}
    file = written(tmp_path, dict(sorted(channels.items())), type=kind, **tiles)
    for source in (file, io.BytesIO(file.read_bytes())):
        got = read_raster(source)
        assert got.values.dtype == np.dtype(dtype)
        assert np.array_equal(got.values, np.stack(list(channels.values()), axis=2))
        assert got.remarks == ("has the channels R, G, B, A, Z, depth.V, light.R, light.G, light.B",)
        assert raster_shape(source) == (5, 7, 9)


def test_mixed_types_become_the_one_that_holds_them(tmp_path):
    channels = {"R": ramp("f2"), "Z": ramp("f4")}
    got = read_raster(written(tmp_path, channels)).values
    assert got.dtype == np.float32
    assert np.array_equal(got[:, :, 1], channels["Z"])


def test_the_image_is_the_display_window(tmp_path):
    values = ramp("f4")
    corners = [((2, 1), (8, 5), (10, 12)), ((-3, -2), (3, 2), (5, 6)), ((20, 20), (26, 24), (8, 8))]
    for first, last, (height, width) in corners:
        window = tuple(np.array(corner, np.int32) for corner in (first, last))
        display = (np.array([0, 0], np.int32), np.array([width - 1, height - 1], np.int32))
        got = read_raster(written(tmp_path, {"Y": values}, dataWindow=window, displayWindow=display))
        expected = np.zeros((height, width))
        for y in range(5):
            for x in range(7):
                if 0 <= y + first[1] < height and 0 <= x + first[0] < width:
                    expected[y + first[1], x + first[0]] = values[y, x]
        assert np.array_equal(got.values[:, :, 0], expected)
        assert "others are 0" in got.remarks[0]


def test_parts_are_pages(tmp_path):
    parts = [OpenEXR.Part({"name": name}, {"Y": ramp("f4", first)}) for first, name in enumerate("ab")]
    OpenEXR.File(parts).write(str(tmp_path / "parts.exr"))
    assert raster_pages(tmp_path / "parts.exr") == 2
    assert np.array_equal(read_raster(tmp_path / "parts.exr", page=1).values[:, :, 0], ramp("f4", 1))


def test_damage_is_refused_in_one_line(tmp_path):
    whole = written(tmp_path, {"R": ramp("f4"), "G": ramp("f4"), "B": ramp("f4")}).read_bytes()
    for length in range(4, len(whole), 17):
        with pytest.raises(BrokenImage) as error:
            read_raster(io.BytesIO(whole[:length]))
        assert "\n" not in str(error.value)
