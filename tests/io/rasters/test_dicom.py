"""DICOM, written by pydicom and compared with its own decoding and lookup tables."""

import io
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster


def dataset(values: NDArray[Any], **elements: Any) -> Dataset:
    """A file in memory with frames [N, H, W, C] or an image [H, W] or [H, W, C] whose C is 3."""
    channels = values.shape[-1] if values.ndim > 2 and values.shape[-1] == 3 else 1
    grid = values.shape[:-1] if channels == 3 else values.shape
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2.3"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = grid[-2], grid[-1], channels
    ds.PhotometricInterpretation = "RGB" if channels == 3 else "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8 * values.dtype.itemsize
    ds.PixelRepresentation = int(values.dtype.kind == "i")
    if len(grid) == 3:
        ds.NumberOfFrames = grid[0]
    if channels == 3:
        ds.PlanarConfiguration = 0
    for name, value in elements.items():
        setattr(ds, name, value)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelData = values.tobytes()
    ds["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    return ds


def written(ds: Dataset, syntax: UID = ExplicitVRLittleEndian) -> io.BytesIO:
    stream = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(
        stream, enforce_file_format=True, little_endian=syntax.is_little_endian, implicit_vr=syntax.is_implicit_VR
    )
    return stream


def ramp(dtype: str, low: int, high: int, shape: tuple[int, ...] = (5, 7)) -> NDArray[Any]:
    return np.linspace(low, high, int(np.prod(shape))).astype(dtype).reshape(shape)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize(
    ("dtype", "bits", "low", "high"),
    [("u1", 8, 0, 255), ("u2", 12, 0, 4095), ("u2", 16, 0, 65535), ("i2", 12, -2048, 2047), ("i2", 16, -32768, 32767)],
)
def test_stored_values_are_kept_and_monochrome1_is_inverted_within_its_bits(syntax, dtype, bits, low, high):
    values = ramp(dtype, low, high)
    stored = values.astype(values.dtype.newbyteorder("<" if syntax.is_little_endian else ">"))
    for colors, expected in (("MONOCHROME2", values), ("MONOCHROME1", (low + high - values.astype(int)).astype(dtype))):
        stream = written(dataset(stored, BitsStored=bits, PhotometricInterpretation=colors), syntax)
        got = read_raster(stream)
        assert got.values.dtype == np.dtype(dtype)
        assert np.array_equal(got.values[:, :, 0], expected)
        assert got.unit == ""
        assert raster_shape(stream) == (5, 7, 1)


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, "i2"), (2, 0, "u2"), (1, -40000, "i4"), (0.5, -10, "f4"), (1e-3, 0, "f4")],
)
def test_slope_and_intercept_are_applied_in_the_smallest_type_that_holds_the_stored_bits(slope, intercept, dtype):
    ds = dataset(ramp("u2", 0, 4095), BitsStored=12, RescaleSlope=slope, RescaleIntercept=intercept, Modality="CT")
    got = read_raster(written(ds))
    assert np.array_equal(got.values[:, :, 0], apply_modality_lut(ds.pixel_array, ds).astype(dtype))
    assert got.values.dtype == np.dtype(dtype)
    assert got.unit == "HU"
    ds.PhotometricInterpretation = "MONOCHROME1"
    got = read_raster(written(ds))
    assert np.allclose(got.values[:, :, 0], (4095 - ds.pixel_array.astype(float)) * slope + intercept)
    assert got.unit == ""


@pytest.mark.parametrize(
    ("elements", "unit"),
    [
        ({"RescaleType": "OD", "RescaleSlope": 1, "RescaleIntercept": 0}, "OD"),
        ({"RescaleType": "US", "RescaleSlope": 1, "RescaleIntercept": 0, "Modality": "CT"}, ""),
        ({"Modality": "MR"}, ""),
        ({"Modality": "PT", "Units": "BQML", "RescaleSlope": 2.5, "RescaleIntercept": 0}, "BQML"),
        ({"Modality": "RTDOSE", "DoseUnits": "GY", "DoseGridScaling": 0.25}, "GY"),
    ],
)
def test_the_unit_is_the_one_that_the_file_states(elements, unit):
    values = ramp("u2", 0, 4095)
    got = read_raster(written(dataset(values, **elements)))
    assert got.unit == unit
    assert np.array_equal(
        got.values[:, :, 0], values * elements.get("RescaleSlope", elements.get("DoseGridScaling", 1))
    )


def test_frames_are_pages_each_with_its_own_slope():
    frames = ramp("u2", 0, 60000, (3, 5, 7))
    ds = dataset(frames)
    groups = []
    for number in range(3):
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = number + 1, -number, "HU"
        group = Dataset()
        group.PixelValueTransformationSequence = [scale]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    stream = written(ds)
    assert raster_pages(stream) == 3
    for number in range(3):
        got = read_raster(stream, page=number)
        assert np.array_equal(got.values[:, :, 0], frames[number].astype(int) * (number + 1) - number)
        assert got.unit == "HU"
        assert got.remarks == (f"has 3 pages, of which this is page {number}",)


def test_a_lookup_table_is_applied():
    ds = dataset(ramp("u1", 0, 15), BitsStored=8, PhotometricInterpretation="MONOCHROME2")
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [16, 0, 16], list(range(0, 16000, 1000))
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    ds.ModalityLUTSequence = [table]
    got = read_raster(written(ds)).values
    assert np.array_equal(got[:, :, 0], apply_modality_lut(ds.pixel_array, ds))
    ds.PhotometricInterpretation = "MONOCHROME1"
    assert np.array_equal(read_raster(written(ds)).values, 65535 - got)


def test_a_palette_and_ybr_become_rgb():
    ds = dataset(ramp("u1", 0, 255), PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        levels = np.random.default_rng(len(name)).integers(0, 65536, 256, np.uint16)
        setattr(ds, f"{name}PaletteColorLookupTableData", levels.tobytes())
    stream = written(ds)
    assert np.array_equal(read_raster(stream).values, apply_color_lut(ds.pixel_array, ds))
    assert raster_shape(stream) == (5, 7, 3)
    ds = dataset(ramp("u1", 0, 255, (5, 8, 3)), PhotometricInterpretation="YBR_FULL")
    assert np.array_equal(read_raster(written(ds)).values, pydicom.pixels.pixel_array(ds))


def test_color_in_planes():
    values = ramp("u1", 0, 255, (5, 8, 3))
    ds = dataset(values, PlanarConfiguration=1)
    ds.PixelData = np.moveaxis(values, -1, 0).tobytes()
    assert np.array_equal(read_raster(written(ds)).values, values)


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (JPEGLosslessSV1, lambda values: imagecodecs.jpeg8_encode(values, lossless=True, predictor=1)),
        (JPEGLSLossless, imagecodecs.jpegls_encode),
        (JPEG2000Lossless, lambda values: imagecodecs.jpeg2k_encode(values, reversible=True, codecformat="j2k")),
        (RLELossless, None),
    ],
)
def test_losslessly_compressed_values_are_exact(syntax, encode):
    values = ramp("u2", 0, 65535, (32, 48))
    ds = dataset(values)
    if encode is None:
        ds.compress(syntax)
    else:
        ds.PixelData = encapsulate([encode(values)])
        ds["PixelData"].is_undefined_length = True
    assert np.array_equal(read_raster(written(ds, syntax)).values[:, :, 0], values)


def test_the_sample_files_of_pydicom_agree_across_their_compressions():
    folder = Path(pydicom.__file__).parent / "data/test_files"
    expected = read_raster(folder / "MR_small.dcm").values
    assert np.array_equal(expected[:, :, 0], pydicom.dcmread(folder / "MR_small.dcm").pixel_array)
    for name in ("RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless"):
        assert np.array_equal(read_raster(folder / f"MR_small_{name}.dcm").values, expected)
    for name in ("SC_rgb_jpeg_dcmtk", "SC_rgb_jls_lossy_line", "SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_gdcm_KY"):
        got, reference = (read_raster(folder / f"{each}.dcm").values for each in (name, "SC_rgb_rle"))
        assert np.abs(got.astype(int) - reference).mean() < 4  # lossy, and in the same colours


def test_a_frame_with_another_size_than_the_file_says_is_refused_before_it_is_decoded():
    ds = dataset(ramp("u2", 0, 65535, (32, 48)))
    ds.PixelData = encapsulate([imagecodecs.jpegls_encode(ramp("u2", 0, 65535, (32, 49)))])
    ds["PixelData"].is_undefined_length = True
    with pytest.raises(BrokenImage, match=r"invalid out.shape=\(32, 48\), shape=\(32, 49\)"):
        read_raster(written(ds, JPEGLSLossless))


def test_floats_are_read_as_they_are():
    ds = dataset(ramp("u4", 0, 9))
    values = ramp("f4", -3, 12)
    del ds.PixelData
    ds.FloatPixelData = values.tobytes()
    got = read_raster(written(ds))
    assert got.values.dtype == np.float32
    assert np.array_equal(got.values[:, :, 0], values)


def test_what_cannot_be_read_right_is_refused_in_one_line():
    grey = ramp("u2", 0, 65535)
    strange = dataset(grey, PhotometricInterpretation="HSV")
    report = dataset(grey)
    del report.Rows, report.PixelData
    empty = dataset(grey)
    del empty.PixelData
    lossy = dataset(ramp("u1", 0, 255))
    lossy.PixelData = encapsulate([b"no JPEG"])
    lossy["PixelData"].is_undefined_length = True
    for stream, reason in (
        (written(strange), "its colours are HSV"),
        (written(report), "it is a DICOM file without an image"),
        (written(empty), "no pixel data to decode"),
        (written(dataset(grey), DeflatedExplicitVRLittleEndian), "it is compressed as a whole"),
        (written(lossy, JPEGBaseline8Bit), "Unable to decode"),
    ):
        for limited in (False, True):
            with pytest.raises(BrokenImage, match=reason):
                read_raster(stream, limited=limited)
    whole = written(dataset(ramp("u2", 0, 65535, (16, 16)))).getvalue()
    for length in range(140, len(whole), 31):
        with pytest.raises(BrokenImage):
            read_raster(io.BytesIO(whole[:length]))
