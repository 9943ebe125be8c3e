"""What holds for the readers of all formats."""

import io
import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
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


STARTS = {
    "TIFF": ("tifffile", b"II*\0"),
    "DICOM": ("pydicom", bytes(128) + b"DICM"),
    "NIfTI": ("nibabel", bytes(344) + b"n+1\0"),
    "OpenEXR": ("OpenEXR", b"v/1\x01"),
    "16-bit PNG": ("imagecodecs", imagecodecs.png_encode(np.ones((4, 4, 3), np.uint16))),
    "JPEG 2000": ("imagecodecs", imagecodecs.jpeg2k_encode(np.ones((4, 4), np.uint16))),
}


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.extra])
def test_a_missing_package_is_named_with_what_installs_it(name, monkeypatch):
    module, start = STARTS[name]
    monkeypatch.setitem(sys.modules, module, None)
    install = rf'needs {module}, which is not installed: pip install "latent-ae\[{READERS[name].extra}\]"'
    with pytest.raises(BrokenImage, match=install):
        read_raster(io.BytesIO(start.ljust(400, b"\0")))


def test_the_readers_import_no_package_of_an_extra():
    program = "import sys, latent_ae.io.rasters as rasters; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {module for module, _ in STARTS.values()} & set(run.stdout.split())


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
