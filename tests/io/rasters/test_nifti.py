"""NIfTI, written and compared by nibabel."""

import gzip
import io

import nibabel
import numpy as np
import pytest

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster

AFFINE = np.diag([-2.0, 3.0, 4.0, 1.0])


def volume(*shape, dtype="i2"):
    return (np.arange(np.prod(shape)) * 7 % 1999 - 700).astype(dtype).reshape(shape)


def written(values, *, slope=None, intercept=None, kind=nibabel.Nifti1Image):
    image = kind(values, AFFINE)
    if slope is not None:
        image.header.set_slope_inter(slope, intercept)
    return io.BytesIO(image.to_bytes())


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i2", ">i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("packed", [False, True])
def test_slices_lie_along_the_third_axis_or_the_stated_one(kind, dtype, packed):
    values = volume(4, 5, 6, dtype=dtype)
    stream = written(values, kind=kind)
    stored = np.asarray(kind.from_bytes(stream.getvalue()).dataobj)
    stream = io.BytesIO(gzip.compress(stream.getvalue())) if packed else stream
    assert np.array_equal(stored, values)
    for axis, length in ((None, 6), (0, 4), (1, 5), (2, 6), (-1, 6)):
        assert raster_pages(stream, axis=axis) == length
        got = read_raster(stream, page=3, axis=axis).values
        expected = stored.take(3, 2 if axis is None else axis)
        assert got.dtype == values.dtype.newbyteorder("=")
        assert np.array_equal(got[:, :, 0], expected)
        assert raster_shape(stream, axis=axis)[:2] == expected.shape


@pytest.mark.parametrize(("slope", "intercept", "dtype"), [(1, -1024, "i4"), (2, 0, "i4"), (0.25, -3, "f4")])
def test_slope_and_intercept_are_applied(slope, intercept, dtype):
    # nibabel writes such values only in a header that it does not see: it divides by the slope otherwise.
    data = bytearray(written(volume(4, 5, 6)).getvalue())
    data[112:120] = np.array([slope, intercept], "<f4").tobytes()
    expected = np.asarray(nibabel.Nifti1Image.from_bytes(bytes(data)).dataobj)
    got = read_raster(io.BytesIO(data), page=2).values
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got[:, :, 0], expected[:, :, 2])


def test_a_packed_volume_that_is_larger_than_any_buffer():
    values = np.random.default_rng(0).integers(-9999, 9999, (60, 50, 40), np.int16)
    stream = io.BytesIO(gzip.compress(written(values).getvalue(), 1))
    for page in (0, 39):
        assert np.array_equal(read_raster(stream, page=page).values[:, :, 0], values[:, :, page])


def test_times_follow_the_slices():
    values = volume(4, 5, 3, 2)
    stream = written(values)
    assert raster_pages(stream) == 6
    assert np.array_equal(read_raster(stream, page=4).values[:, :, 0], values[:, :, 1, 1])
    assert np.array_equal(read_raster(stream, page=-1, axis=0).values[:, :, 0], values[3, :, :, 1])


def test_vectors_and_rgb_are_channels():
    values = volume(4, 5, 3, 1, 2)
    assert np.array_equal(read_raster(written(values), page=1).values, values[:, :, 1, 0, :])
    colors = np.zeros((4, 5, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for number, name in enumerate("RGB"):
        colors[name] = volume(4, 5, 3, dtype="u1") + number
    got = read_raster(written(colors), page=1).values
    assert all(np.array_equal(got[:, :, number], colors[name][:, :, 1]) for number, name in enumerate("RGB"))


def test_big_endian_files_and_single_slices():
    values = volume(4, 5)
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype("i2")
    data = nibabel.Nifti1Image(values, AFFINE, header).to_bytes()
    assert data[:4] == (348).to_bytes(4, "big")
    got = read_raster(io.BytesIO(data))
    assert np.array_equal(got.values[:, :, 0], values)
    assert got.values.dtype == np.dtype("=i2")
    assert raster_pages(io.BytesIO(data)) == 1


def test_what_cannot_be_read_right_is_refused_in_one_line():
    header = nibabel.Nifti1Pair(volume(4, 5, 6), AFFINE).header
    head = io.BytesIO()
    header.write_to(head)
    large = bytearray(written(volume(4, 5, 6)).getvalue())
    large[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    many = bytearray(written(volume(4, 5, 6, 2)).getvalue())
    many[46:50] = np.array([32767, 32767], "<i2").tobytes()
    unknown = bytearray(written(volume(4, 5, 6)).getvalue())
    unknown[70:72] = np.array([4096], "<i2").tobytes()  # a type that does not exist
    for data, reason in (
        (head.getvalue(), "its values are in another file"),
        (gzip.compress(b"no volume" * 99), "a gzip archive of something other than NIfTI"),
        (written(volume(4, 5, 6).astype("c8")).getvalue(), "its values are complex64"),
        (written(volume(4)).getvalue(), "its values have the shape"),
        (gzip.compress(bytes(many)), "its header promises 1073676289 pages, more than it has bytes for"),
        (bytes(unknown), "it cannot be read as NIfTI: KeyError 4096"),
        (gzip.compress(bytes(large)), "expected at most 89478485 pixels"),
    ):
        with pytest.raises(BrokenImage, match=reason):
            read_raster(io.BytesIO(data), limited=True)
    whole = written(volume(4, 5, 6)).getvalue()
    for length in range(4, len(whole), 23):
        for data in (whole[:length], gzip.compress(whole)[: length // 2]):
            with pytest.raises(BrokenImage):
                read_raster(io.BytesIO(data), page=5)
