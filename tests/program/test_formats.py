"""Each format of images, written by its own library, through a run, evaluation, latents, decoding and an export."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import OpenEXR
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from latent_ae.cli import main as latent_ae
from latent_ae.inference import Codec
from latent_ae.io.rasters import read_raster
from latent_ae.models.loading import load_autoencoder, load_pixel_format
from tests.inference.numbers import lossless
from tests.io.rasters.test_dicom import dataset, written
from tests.program.running import arguments

Values = NDArray[Any]
SHAPE = (16, 20)


def smooth(number: int, channels: int = 1) -> Values:
    """[H, W, C] float64 in 0..1, not symmetrical in any way, other for each number."""
    y, x, c = np.meshgrid(*(np.arange(size) / size for size in SHAPE), np.arange(channels), indexing="ij")
    return np.mod(0.3 * x + 0.5 * y**2 + 0.13 * c + 0.07 * number, 1.0)


def png_rgba(path: Path, number: int) -> Values:
    values = (smooth(number, 4) * 255).astype("u1")
    Image.fromarray(values).save(path, "PNG")
    return values


def png_12_in_16(path: Path, number: int) -> Values:
    values = (smooth(number) * 4095).astype("u2")
    Image.fromarray(values[:, :, 0]).save(path, "PNG")
    return values


def dicom(colors: str) -> Callable[[Path, int], Values]:
    def write(path: Path, number: int) -> Values:
        stored = (smooth(number)[:, :, 0] * 4095).astype("u2")
        ds = dataset(stored, BitsStored=12, PhotometricInterpretation=colors, RescaleSlope=1, RescaleIntercept=-1024)
        path.write_bytes(written(ds).getvalue())
        values = stored if colors == "MONOCHROME2" else 4095 - stored
        return (values.astype("i2") - 1024)[:, :, None]

    return write


def geotiff(path: Path, number: int) -> Values:
    values = (smooth(number, 5) * 2 - 1).astype("f4")
    tags = [(33550, "d", 3, (10.0, 10.0, 0.0), True), (34735, "H", 4, (1, 1, 0, 0), True)]
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", extratags=tags)
    return values[:, :, [2, 1, 0, 4]]


def planar_tiff(path: Path, number: int) -> Values:
    values = (smooth(number, 3) * 65535).astype("u2")
    tifffile.imwrite(path, np.moveaxis(values, -1, 0), photometric="rgb", planarconfig="separate", byteorder=">")
    return values


def nifti(path: Path, number: int) -> Values:
    volume = np.stack([smooth(number + page)[:, :, 0] * 300 - 100 for page in range(3)], axis=1).astype("i2")
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    return volume[:, 0, :, None]  # along axis 1: the first page


def exr(path: Path, number: int) -> Values:
    values = (smooth(number, 3) * 4).astype("f4")
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    OpenEXR.File(header, {name: values[:, :, place].copy() for place, name in enumerate("RGB")}).write(str(path))
    return values


class Case(NamedTuple):
    suffix: str
    write: Callable[[Path, int], Values]
    """a file; gives its values as a model is to see them, by hand or by the format's library"""
    channels: int
    options: tuple[str, ...]
    pages: int = 1
    tolerance: float = 0


CASES = {
    "RGBA sprites": Case(".png", png_rgba, 4, ()),
    "DICOM, MONOCHROME1": Case(".dcm", dicom("MONOCHROME1"), 1, ("--data.percentiles", "0", "100")),
    "DICOM, MONOCHROME2": Case(".dcm", dicom("MONOCHROME2"), 1, ("--data.window", "1024", "4096")),
    "12 bits in a 16-bit PNG": Case(".png", png_12_in_16, 1, ("--data.value_range", "0", "4095")),
    "5-band GeoTIFF": Case(
        *(".tif", geotiff, 4, ("--data.value_range", "-1", "1", "--data.bands", "3", "2", "1", "5")), tolerance=1e-6
    ),
    "16-bit TIFF in planes": Case(".tif", planar_tiff, 3, ("--data.value_range", "0", "65535")),
    "NIfTI slices": Case(
        *(".nii.gz", nifti, 1, ("--data.value_range", "-100", "200", "--data.axis", "1", "--data.pages", "all")),
        pages=3,
    ),
    "float EXR": Case(".exr", exr, 3, ("--data.value_range", "0", "4", "--data.gamma", "2.2"), tolerance=1e-5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_format_goes_through_a_run_and_comes_back_in_its_own_values(
    name: str, main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = CASES[name]
    data, model = tmp_path / "data", str(tmp_path / "run" / "model")
    for part, count in ("train", 6), ("val", 2):
        (data / part).mkdir(parents=True)
        for number in range(count):
            expected = case.write(data / part / f"{number}{case.suffix}", number)
    source = ("--data.source", "folder", "--data.path", str(data), "--model.image_channels", str(case.channels))
    sizes = ("--data.resolution", "16", "--evaluation.rgb", "1")
    assert main(arguments(tmp_path, 2, *source, *sizes, *case.options)) == 0
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert report["images"] == 2 * case.pages
    assert np.isfinite(report["metrics"]["psnr"]["value"])

    form = load_pixel_format(model, load_autoencoder(model))
    assert form.channels == case.channels
    assert form.dtype == expected.dtype
    codec = lossless(form)  # what a run of two updates keeps is not the point
    monkeypatch.setattr(Codec, "load", lambda *_, **__: codec)
    file = str(data / "val" / f"1{case.suffix}")
    axis = ("--axis", "1") if "--data.axis" in case.options else ()
    assert latent_ae(["encode", file, "--model", model, "-o", str(tmp_path / "latents"), *axis]) == 0
    assert latent_ae(["decode", str(tmp_path / "latents"), "--model", model, "-o", str(tmp_path / "decoded")]) == 0
    (decoded,) = (tmp_path / "decoded").iterdir()
    values = read_raster(decoded).values
    assert values.dtype == expected.dtype
    np.testing.assert_allclose(values, expected, atol=case.tolerance * np.ptp(expected))
    monkeypatch.undo()
    assert latent_ae(["export", "diffusers", "--model", model, "-o", str(tmp_path / "vae")]) == 0
