"""NumPy arrays: which axis is what, and what is refused."""

import io

import numpy as np
import pytest

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster


def saved(values, *, zipped=False):
    stream = io.BytesIO()
    if zipped:
        np.savez_compressed(stream, values)
    else:
        np.save(stream, values)
    return stream


def ramp(*shape, dtype="<i2"):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype) - 7


LAST, FIRST = "hwc", "chw"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("shape", "pages", "channels"),
    [
        ((5, 7), 1, LAST),
        ((5, 7, 4), 1, LAST),
        ((80, 70, 64), 1, LAST),
        ((4, 5, 7), 1, FIRST),
        ((3, 5, 7, 2), 3, LAST),
        ((3, 2, 5, 7), 3, FIRST),
    ],
)
def test_the_shorter_end_is_the_channels(shape, pages, channels, order, zipped, tmp_path):  # noqa: PLR0917
    values = np.asarray(ramp(*shape, dtype=">i2"), order=order)
    stream = saved(values, zipped=zipped)
    (tmp_path / "file").write_bytes(stream.getvalue())
    for file in (stream, tmp_path / "file"):
        assert raster_pages(file) == pages
        for page in range(pages):
            expected = values if len(shape) < 4 else values[page]
            expected = expected[:, :, None] if expected.ndim == 2 else expected
            expected = np.moveaxis(expected, 0, -1) if channels == FIRST else expected
            got = read_raster(file, page=page).values
            assert got.dtype == np.dtype("=i2")
            assert np.array_equal(got, expected)
            assert raster_shape(file, page=page) == expected.shape


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("order", ["C", "F"])
def test_slices_of_a_volume_lie_along_the_stated_axis(axis, order, tmp_path):
    volume = np.asarray(ramp(6, 6, 6), order=order)
    (tmp_path / "volume.npy").write_bytes(saved(volume).getvalue())
    for file in (saved(volume), saved(volume, zipped=True), tmp_path / "volume.npy"):
        assert raster_pages(file, axis=axis) == 6
        got = read_raster(file, page=4, axis=axis).values
        assert np.array_equal(got[:, :, 0], volume.take(4, axis))
        got[0, 0, 0] = 99  # a copy: the file does not change
    assert np.array_equal(np.load(tmp_path / "volume.npy"), volume)


def test_bools_become_0_and_1():
    got = read_raster(saved(np.eye(5, dtype=bool))).values
    assert got.dtype == np.uint8
    assert np.array_equal(got[:, :, 0], np.eye(5))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (ramp(6, 6, 6), r"which axis of the array \[6, 6, 6\] are the channels is not clear"),
        (ramp(80, 90, 75), r"which axis of the array \[80, 90, 75\] are the channels is not clear"),
        (ramp(6), r"it is an array \[6\]: save \[H, W\], \[H, W, C\] or \[N, H, W, C\]"),
        (np.zeros((4, 4), complex), "its values are complex128: save integers or floats"),
        (np.array([[None]]), "its values are object"),
        (np.zeros((0, 4)), "it has no pixels"),
    ],
)
def test_what_is_not_clearly_an_image_is_refused(values, reason):
    with pytest.raises(BrokenImage, match=reason):
        read_raster(saved(values))


def test_an_archive_of_several_arrays_is_refused_by_their_names():
    stream = io.BytesIO()
    np.savez(stream, image=ramp(4, 4), mask=ramp(4, 4))
    with pytest.raises(BrokenImage, match=r"it holds 2 arrays or files \(image, mask\)"):
        read_raster(stream)


def test_a_large_header_allocates_nothing_and_a_cut_one_is_refused():
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6, 3)})
    with pytest.raises(BrokenImage, match="it is cut short: 12000000000000 of 12000000000000 bytes"):
        read_raster(stream)
    whole = saved(ramp(5, 7)).getvalue()
    for length in range(6, len(whole), 5):
        with pytest.raises(BrokenImage):
            read_raster(io.BytesIO(whole[:length]))
