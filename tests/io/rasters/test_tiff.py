"""TIFF of every layout, written by tifffile: the values are those that were given to it."""

import io
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster

DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "grey": ((5, 7), {}),
    "grey in BigTIFF": ((5, 7), {"bigtiff": True}),
    "RGB": ((5, 7, 3), {"photometric": "rgb"}),
    "RGBA": ((5, 7, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "RGB in tiles": ((37, 21, 3), {"photometric": "rgb", "tile": (16, 16)}),
    "5 bands": ((5, 7, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
    "5 planes": ((5, 5, 7), {"photometric": "minisblack", "planarconfig": "separate"}),
    "5 planes in strips": ((5, 9, 7), {"photometric": "minisblack", "planarconfig": "separate", "rowsperstrip": 2}),
    "RGB in planes": ((3, 5, 7), {"photometric": "rgb", "planarconfig": "separate"}),
}


def written(values: NDArray[Any], **options: Any) -> io.BytesIO:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream


def ramp(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Values of the whole range of a type, negative and fractional ones too."""
    kind, count = np.dtype(dtype), int(np.prod(shape))
    if kind.kind == "f":
        return np.linspace(-3.5, 60000, count).astype(kind).reshape(shape)
    low, high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
    steps = np.arange(count, dtype="u8") * np.uint64((high - low) // (count - 1))
    return (steps + np.uint64(low % 2**64)).astype(kind).reshape(shape)  # modulo the type's range


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_and_layout_keeps_its_values(layout, order):
    shape, options = LAYOUTS[layout]
    for dtype in DTYPES:
        for compression in (None, "zlib", "lzw"):
            values = ramp(shape, dtype)
            stream = written(values, byteorder=order, compression=compression, **options)
            got = read_raster(stream)
            expected = np.moveaxis(values, 0, -1) if options.get("planarconfig") == "separate" else values
            expected = expected.reshape(*expected.shape[:2], -1)
            assert got.values.dtype == values.dtype
            assert got.values.flags.writeable
            assert np.array_equal(got.values, expected)
            assert raster_shape(stream) == expected.shape


@pytest.mark.parametrize("how", [{"photometric": "minisblack"}, {"imagej": True}, {"ome": True}])
def test_each_page_is_an_image_and_says_so(how):
    pages = ramp((3, 5, 7), "u2")
    stream = written(pages, **how)
    assert raster_pages(stream) == 3
    for number in range(3):
        assert np.array_equal(read_raster(stream, page=number).values[:, :, 0], pages[number])
    assert read_raster(stream, page=-1).remarks == ("has 3 pages, of which this is page 2",)
    with pytest.raises(BrokenImage, match="page 3 was asked for, and it has 3 pages, counted from 0"):
        read_raster(stream, page=3)


def test_thumbnails_and_reduced_copies_are_no_images(tmp_path):
    values = ramp((32, 32), "u2")
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(values[::8, ::8], subfiletype=1)
        file.write(values, subifds=1)
        file.write(values[::2, ::2], subfiletype=1)
        file.write(values[::4, ::4] > 9, subfiletype=4, photometric="minisblack")
        file.write(values + 1)
    (tmp_path / "file.tif").write_bytes(stream.getvalue())
    for source in (stream, tmp_path / "file.tif", tmp_path / "file.tif"):  # the last time it is known
        assert raster_pages(source) == 2
        for page in range(2):
            assert np.array_equal(read_raster(source, page=page).values[:, :, 0], values + page)
    tifffile.imwrite(tmp_path / "file.tif", np.stack([values] * 3), photometric="minisblack")
    assert raster_pages(tmp_path / "file.tif") == 3


def test_white_as_zero_is_inverted_within_its_bits():
    values = ramp((4, 8), "u2")
    assert np.array_equal(read_raster(written(values, photometric="miniswhite")).values[:, :, 0], 65535 - values)
    bits = np.arange(32).reshape(4, 8) % 3 == 0
    got = read_raster(written(bits, photometric="miniswhite")).values
    assert got.dtype == np.uint8
    assert np.array_equal(got[:, :, 0], ~bits)
    with pytest.raises(BrokenImage, match="says that 0 is white of float32"):
        read_raster(written(ramp((4, 8), "f4"), photometric="miniswhite"))


def test_packed_12_bits_are_read_as_they_are():
    values = np.arange(0, 4096, 64, dtype=np.uint16).reshape(4, 16)
    packed = imagecodecs.packints_encode(values, 12)
    for photometric, expected in (("minisblack", values), ("miniswhite", 4095 - values)):
        stream = io.BytesIO()
        options = {"bitspersample": 12, "rowsperstrip": 4, "photometric": photometric}
        tifffile.imwrite(stream, iter([packed]), shape=values.shape, dtype=np.uint16, **options)
        assert np.array_equal(read_raster(stream).values[:, :, 0], expected)


def test_a_palette_is_applied():
    levels = np.random.default_rng(0).integers(0, 65536, (3, 256), np.uint16)
    index = np.arange(35, dtype=np.uint8).reshape(5, 7)
    got = read_raster(written(index, photometric="palette", colormap=levels))
    assert np.array_equal(got.values, levels[:, index].transpose(1, 2, 0))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_image_is_turned_upright_as_pillow_turns_it(orientation):
    values = np.arange(15, dtype=np.uint8).reshape(3, 5)
    stream = written(values, extratags=[(274, "H", 1, orientation, True)])
    stream.seek(0)
    with Image.open(stream) as image:
        expected = np.asarray(image)
    assert np.array_equal(read_raster(stream).values[:, :, 0], expected)
    assert raster_shape(stream)[:2] == expected.shape


def test_bands_of_a_geotiff_with_a_missing_value():
    values = ramp((6, 8, 5), "f4")
    values[0, 0] = -9999
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 5e5, 4e6, 0.0), True),
        (34735, "H", 4, (1, 1, 0, 0), True),
        (42113, "s", 0, "-9999", True),
    ]
    got = read_raster(written(values, photometric="minisblack", planarconfig="contig", extratags=tags))
    assert np.array_equal(got.values, values)
    assert got.remarks == ("marks missing values as -9999, which are read as such numbers",)


def test_premultiplied_alpha_is_said():
    stream = written(ramp((5, 7, 4), "u2"), photometric="rgb", extrasamples=["assocalpha"])
    assert read_raster(stream).remarks == ("has colours that are multiplied by alpha",)


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (np.zeros((4, 4), np.complex64), {}, "its values are complex64"),
        (np.zeros((4, 4, 3), np.uint8), {"photometric": "cielab"}, "its colours are CIELAB"),
        (np.zeros((4, 4), np.uint16), {"photometric": "cfa"}, "its colours are CFA"),
        (np.zeros((2, 16, 16), np.uint8), {"volumetric": True, "tile": (16, 16, 16)}, "a volume of 2 planes"),
    ],
)
def test_values_without_one_meaning_are_refused(values, options, reason):
    with pytest.raises(BrokenImage, match=reason):
        read_raster(written(values, **options))


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_file_that_is_cut_anywhere_is_refused_in_one_line(compression):
    whole = written(ramp((16, 16), "u2"), compression=compression).getvalue()
    for length in range(8, len(whole), max(1, len(whole) // 40)):
        with pytest.raises(BrokenImage) as error:
            read_raster(io.BytesIO(whole[:length]))
        assert "\n" not in str(error.value)
