"""Decoded images in files: every channel and bit comes back, with the record, and what cannot hold them is refused."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.io.image_writing import check_suffix, read_record, suffixes_for, write_image
from latent_ae.io.pixel_format import DType, PixelFormat
from latent_ae.io.rasters import read_raster


def numbers(channels: int, dtype: DType) -> PixelFormat:
    return PixelFormat(channels, numbers=True, dtype=dtype, ranges=((0.0, 1.0),), unit="HU")


FORMATS = [PixelFormat.picture(channels) for channels in (1, 2, 3, 4)]
FORMATS += [numbers(channels, dtype) for channels in (1, 2, 3, 4, 64) for dtype in get_args(DType)]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: f"{form.channels}-{form.dtype}-{form.numbers}")
def test_every_channel_and_bit_comes_back_with_the_record(form: PixelFormat, tmp_path: Path) -> None:
    array = (np.arange(70 * 66 * form.channels).reshape(70, 66, form.channels) % 251).astype(form.dtype)
    for suffix in suffixes_for(form):
        file = tmp_path / f"a{suffix}"
        write_image(file, array, form, record={"source": "x"})
        raster = read_raster(file)
        assert raster.values.dtype == array.dtype
        assert np.array_equal(raster.values, array)
        assert raster.unit == ("HU" if form.numbers and suffix.startswith(".tif") else "")
        assert read_record(file) == (None if suffix == ".npy" else ({"source": "x"}, (70, 66)))


def test_a_png_is_the_usual_where_it_holds_all_channels_and_takes_none_for_alpha() -> None:
    usual = {(form.channels, form.dtype, form.numbers): suffixes_for(form)[0] for form in FORMATS}
    png = {key for key, suffix in usual.items() if suffix == ".png"}
    pictures = {(channels, "uint8", False) for channels in (1, 2, 3, 4)}
    assert png == pictures | {(channels, dtype, True) for channels in (1, 3) for dtype in ("uint8", "uint16")}
    with pytest.raises(UserError, match=r"^\.png files cannot hold .* \(5 channels, float32 .*\): use \.tif or"):
        check_suffix(".png", numbers(5, "float32"))


def test_files_hold_straight_alpha(tmp_path: Path) -> None:
    form = PixelFormat.picture(4, alpha="premultiplied")
    straight = np.array([[[200, 100, 50, 128], [255, 0, 9, 255], [7, 7, 7, 0]]], np.uint8)
    write_image(tmp_path / "a.png", form.with_alpha(straight), form)
    back = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(back - straight)[0, :2].max() <= 1
    assert back[0, 2].tolist() == [0, 0, 0, 0]


def test_a_damaged_tiff_has_no_record(tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    write_image(file, np.zeros((4, 4, 5), np.float32), numbers(5, "float32"), record={"a": 1})
    data = bytearray(file.read_bytes())
    assert read_record(file) is not None
    for broken in (data[:-1], data[:40], data[:-3] + b"\1" + data[-2:]):
        file.write_bytes(broken)
        assert read_record(file) is None
