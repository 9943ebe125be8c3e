"""Pictures that a package of their own reads: HEIC and JPEG XL."""

import io
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.image import SUFFIXES, open_image, to_uint8
from latent_ae.io.image_file.color import Profile, matrix_profile, to_srgb
from latent_ae.io.image_file.opening import PLUGINS
from latent_ae.io.image_header import header_size
from latent_ae.io.rasters import read_raster

SMOOTH = np.stack([*np.meshgrid(np.arange(40) * 6, np.arange(48) * 5), np.full((48, 40), 99)], 2).astype("u1")


def saved(kind: str, **options) -> io.BytesIO:
    stream = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.register_heif_opener()
    else:
        import pillow_jxl  # noqa: F401
    Image.fromarray(SMOOTH).save(stream, kind, **options)
    return stream


LOSSLESS = {"HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0}, "JXL": {"lossless": True}}


@pytest.mark.parametrize("kind", PLUGINS)
def test_lossless_pixels_are_those_that_were_saved(kind, tmp_path):
    stream = saved(kind, **LOSSLESS[kind])
    file = tmp_path / f"image{PLUGINS[kind].suffixes[0]}"
    file.write_bytes(stream.getvalue())
    for source in (stream, file):
        assert np.array_equal(to_uint8(open_image(source), 3), SMOOTH)
        assert header_size(source) == (48, 40)
    assert file.suffix in SUFFIXES


def test_the_profile_of_a_heic_is_applied():
    icc = matrix_profile("Display P3", ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (2.2,))
    stream = saved("HEIF", **LOSSLESS["HEIF"], icc_profile=icc)
    expected = to_srgb(Image.fromarray(SMOOTH), Profile(icc))
    assert np.array_equal(to_uint8(open_image(stream), 3), np.asarray(expected))


def test_numbers_of_8_bit_heic_are_read_and_others_refused():
    assert np.array_equal(read_raster(saved("HEIF", **LOSSLESS["HEIF"])).values, SMOOTH)
    with pytest.raises(BrokenImage, match="JPEG XL"):
        read_raster(saved("JXL", lossless=True))


@pytest.mark.parametrize("kind", PLUGINS)
def test_a_missing_package_and_damage_are_said(kind, monkeypatch):
    plugin, data = PLUGINS[kind], saved(kind).getvalue()
    with pytest.raises(BrokenImage, match=f"it is {plugin.kind}, and it is damaged"):
        open_image(io.BytesIO(data[:20] + bytes(300)))
    unread = f"it is {plugin.kind}, which is not read: convert it to PNG or JPEG"
    if kind == "JXL":  # which is decoded before its size is known
        with pytest.raises(BrokenImage, match=f"{unread} first"):
            open_image(io.BytesIO(data), limited=True)
    else:
        assert open_image(io.BytesIO(data), limited=True).size == open_image(io.BytesIO(data)).size
    monkeypatch.setitem(sys.modules, plugin.module, None)
    monkeypatch.setattr("latent_ae.io.image_file.opening.find_spec", lambda name: None)
    with pytest.raises(BrokenImage, match=rf'{unread}, or pip install "latent-ae\[{plugin.extra}\]"'):
        open_image(io.BytesIO(data))
