"""What holds for the readers of all formats."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import RASTER_SUFFIXES, READERS, raster_pages, read_raster


def test_a_file_is_read_by_its_content_and_a_stream_stays_open(tmp_path):
    file = tmp_path / "misnamed.png"
    np.save(file.with_suffix(".npy"), np.eye(5, dtype=np.float32))
    file.with_suffix(".npy").rename(file)
    assert read_raster(file).values.dtype == np.float32
    with file.open("rb") as stream:
        stream.seek(9)
        assert read_raster(stream).values.shape == (5, 5, 1)
        assert not stream.closed


def test_each_format_has_suffixes_and_all_lie_in_the_list():
    for reader in READERS.values():
        assert set(reader.suffixes) <= set(RASTER_SUFFIXES)
        assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in reader.suffixes)


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.eye(5, dtype=np.uint16))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(BrokenImage, match=r'needs tifffile, which is not installed: pip install "latent-ae\[tiff\]"'):
        read_raster(stream)


def test_a_large_image_is_read_unless_the_file_is_a_strangers(monkeypatch):
    stream = io.BytesIO()
    np.save(stream, np.zeros((20, 20, 3), np.float64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BrokenImage, match="it has 20x20 pixels in 0 MiB, expected at most 100 pixels"):
        read_raster(stream, limited=True)
    assert read_raster(stream).values.shape == (20, 20, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with pytest.raises(BrokenImage, match="pixels"):  # 24 bytes a pixel
        read_raster(stream, limited=True)


@pytest.mark.parametrize("data", [b"", b"\0" * 300, b"II*\0", b"\x93NUMPY", b"PK\3\4" + b"\0" * 40, b"%PDF-1.4"])
def test_what_is_no_image_is_refused_in_one_line(data, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(data)
    for read in (read_raster, raster_pages):
        with pytest.raises(BrokenImage, match="file: ") as error:
            read(file)
        assert "\n" not in str(error.value)
    with pytest.raises(BrokenImage, match="there is no such file"):
        read_raster(tmp_path / "none")


def test_what_an_error_quotes_of_a_file_is_printable() -> None:
    assert (
        BrokenImage("it is \x1b[2J\x80\nof 3 \N{GREEK SMALL LETTER ALPHA}").reason
        == "it is ?[2J? of 3 \N{GREEK SMALL LETTER ALPHA}"
    )
