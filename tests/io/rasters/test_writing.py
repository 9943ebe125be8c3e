"""What is written is what is read, by us and by the libraries of the formats."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.io.rasters import raster_suffixes, read_raster, write_raster
from tests.io.rasters.test_tiff import ramp


def stock(path):
    """The values by the format's own library."""
    if path.suffix == ".npy":
        return np.load(path)
    return imagecodecs.png_decode(path.read_bytes()) if path.suffix == ".png" else tifffile.imread(path)


@pytest.mark.parametrize(
    ("channels", "alpha"),
    [(channels, "none") for channels in (1, 2, 3, 4, 5, 64)]
    + [(channels, alpha) for channels in (2, 4) for alpha in ("straight", "premultiplied")],
)
def test_every_type_is_kept_by_every_suffix_that_takes_it(channels, alpha, tmp_path):
    for dtype in ("u1", "u2", "i2", "f2", "f4") if channels < 64 else ("i8",):
        values = ramp((channels + 2, channels + 1, channels), dtype)
        for suffix in raster_suffixes(values.dtype, channels, alpha):
            path = tmp_path / f"values{suffix}"
            write_raster(path, values.astype(values.dtype.newbyteorder(">")), alpha=alpha)
            got = read_raster(path)
            assert got.values.dtype == values.dtype
            assert np.array_equal(got.values, values)
            assert np.array_equal(stock(path), values[:, :, 0] if channels == 1 and suffix != ".npy" else values)


@pytest.mark.parametrize(
    ("dtype", "channels", "alpha", "first"),
    [
        ("u1", 3, "none", ".png"),
        ("u2", 1, "none", ".png"),
        ("u2", 4, "straight", ".png"),
        ("u2", 4, "none", ".tif"),  # a fourth band is not taken for alpha
        ("u1", 4, "premultiplied", ".tif"),
        ("u1", 2, "none", ".tif"),
        ("i2", 1, "none", ".tif"),
        ("f4", 3, "none", ".tif"),
        ("u1", 5, "none", ".tif"),
    ],
)
def test_png_is_first_where_it_holds_the_values(dtype, channels, alpha, first, tmp_path):
    values = ramp((6, 7, channels), dtype)
    assert raster_suffixes(values.dtype, channels, alpha)[0] == first
    if first != ".png":
        with pytest.raises(UserError, match=r"\.png cannot hold .*: use \.tif or \.tiff or \.npy"):
            write_raster(tmp_path / "values.png", values, alpha=alpha)
        assert not list(tmp_path.iterdir())


def test_a_tiff_records_unit_and_alpha(tmp_path):
    path = tmp_path / "values.tif"
    write_raster(path, ramp((6, 7, 1), "f4"), unit="HU")
    assert read_raster(path).unit == "HU"
    for channels, alpha, photometric, extra in (
        (4, "straight", 2, (2,)),
        (4, "premultiplied", 2, (1,)),
        (4, "none", 1, (0, 0, 0)),
        (2, "straight", 1, (2,)),
        (5, "none", 1, (0, 0, 0, 0)),
        (3, "none", 2, ()),
    ):
        write_raster(path, ramp((6, 7, channels), "u2"), alpha=alpha)
        with tifffile.TiffFile(path) as file:
            assert (file.pages[0].photometric, file.pages[0].extrasamples) == (photometric, extra)
    write_raster(path, ramp((6, 7, 4), "u1"), alpha="straight")
    with Image.open(path) as image:
        assert image.mode == "RGBA"


def test_unknown_suffixes_and_a_missing_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"\.jpg cannot hold 1 channel of uint8: use \.png or \.tif"):
        write_raster(tmp_path / "values.jpg", ramp((6, 7, 1), "u1"))
    with pytest.raises(ValueError, match="alpha is the last of 2 or 4 channels, got 3"):
        write_raster(tmp_path / "values.tif", ramp((6, 7, 3), "u1"), alpha="straight")
    with pytest.raises(ValueError, match="expected numbers"):
        write_raster(tmp_path / "values.npy", np.zeros((6, 7)))
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(UserError, match=r'pip install "latent-ae\[png16\]", or write \.tif'):
        write_raster(tmp_path / "values.png", ramp((6, 7, 3), "u2"))
    write_raster(tmp_path / "values.png", ramp((6, 7, 1), "u2"))
