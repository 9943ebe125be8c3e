"""Files of numbers from training to decoded files, written and read for comparison by their format's own library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import nibabel
import numpy as np
import OpenEXR
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from latent_ae.cli import main as latent_ae
from latent_ae.inference.codec import Codec
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.uploads import read_image, read_upload
from tests.inference.numbers import lossless
from tests.program.running import arguments

Main = Callable[[list[str]], int]
IMAGES, HEIGHT, WIDTH = 10, 16, 24
"""not square: a wrong order of the axes is another shape"""


def scene(number: int, channels: int) -> np.ndarray:
    """[H, W, C] float64 in [0, 1]."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] / WIDTH
    waves = [np.sin(6 * (x * rng.random() + y * rng.random() + rng.random())) for _ in range(channels)]
    return np.stack(waves, axis=-1) * 0.5 + 0.5


def write_sprite(folder: Path, number: int) -> None:
    Image.fromarray((scene(number, 4) * 255).astype(np.uint8)).save(folder / f"{number}.png")


def read_sprite(file: Path) -> np.ndarray:
    return np.array(Image.open(file))


def write_dicom(folder: Path, number: int, photometric: str = "MONOCHROME2") -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(folder / f"{number}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = meta.MediaStorageSOPClassUID, generate_uid(), "CT"
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = HEIGHT, WIDTH, 1, photometric
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.RescaleSlope, file.RescaleIntercept, file.RescaleType = "1", "-1024", "HU"
    file.PixelData = (scene(number, 1) * 4095).astype("<u2").tobytes()
    file.save_as(folder / f"{number}.dcm", enforce_file_format=True)


def read_dicom(file: Path) -> np.ndarray:
    data = pydicom.dcmread(file)
    values = data.pixel_array.astype(np.int64)
    if data.PhotometricInterpretation == "MONOCHROME1":
        values = 4095 - values
    return (values + int(data.RescaleIntercept)).astype(np.int16)[:, :, None]


def write_inverted_dicom(folder: Path, number: int) -> None:
    write_dicom(folder, number, "MONOCHROME1")


def write_12_bit_png(folder: Path, number: int) -> None:
    (folder / f"{number}.png").write_bytes(imagecodecs.png_encode((scene(number, 1)[:, :, 0] * 4095).astype(np.uint16)))


def read_12_bit_png(file: Path) -> np.ndarray:
    return imagecodecs.png_decode(file.read_bytes()).reshape(HEIGHT, WIDTH, 1)


def write_bands(folder: Path, number: int) -> None:
    pixel_scale, tiepoint = (33550, "d", 3, (10.0, 10.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)
    values = (scene(number, 5) * 3000 - 100).astype(np.float32)
    layout = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(folder / f"{number}.tif", values, **layout, extratags=[pixel_scale, tiepoint])


def write_planar_tiff(folder: Path, number: int) -> None:
    values = (scene(number, 3) * 65535).astype(">u2").transpose(2, 0, 1)
    tifffile.imwrite(folder / f"{number}.tif", values, photometric="rgb", planarconfig="separate", byteorder=">")


def read_planar_tiff(file: Path) -> np.ndarray:
    return tifffile.imread(file).transpose(1, 2, 0)


def write_slices(folder: Path, number: int) -> None:
    volume = np.stack([scene(number * 2 + k, 1)[:, :, 0] for k in range(2)], axis=2) * 900
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.eye(4)), folder / f"{number}.nii")


def read_first_slice(file: Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj)[:, :, 0][:, :, None]


def write_exr(folder: Path, number: int) -> None:
    channels = {"RGB": (scene(number, 3) ** 4 * 20).astype(np.float32)}
    header = {"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}
    with OpenEXR.File(header, channels) as file:
        file.write(str(folder / f"{number}.exr"))


def read_exr(file: Path) -> np.ndarray:
    with OpenEXR.File(str(file)) as opened:
        return np.array(opened.channels()["RGB"].pixels)


class Case(NamedTuple):
    """A kind of images, and what a run makes of it."""

    write: Callable[[Path, int], None]
    read: Callable[[Path], np.ndarray]
    suffix: str
    form: PixelFormat
    decoded: str
    """suffix of decoded files"""
    options: tuple[str, ...] = ()


def numbers(channels: int, dtype: str, low: float, high: float, **more: object) -> PixelFormat:
    return PixelFormat(channels, numbers=True, dtype=dtype, ranges=((low, high),), **more)


CT = numbers(1, "int16", -160, 240)
CASES = {
    "RGBA sprites": Case(write_sprite, read_sprite, ".png", PixelFormat.picture(4), ".png"),
    "DICOM": Case(write_dicom, read_dicom, ".dcm", CT, ".tif", ("--data.window", "40", "400")),
    "DICOM, white as 0": Case(write_inverted_dicom, read_dicom, ".dcm", CT, ".tif", ("--data.window", "40", "400")),
    "12-bit PNG": Case(write_12_bit_png, read_12_bit_png, ".png", numbers(1, "uint16", 0, 4095), ".png"),
    "GeoTIFF": Case(
        write_bands,
        tifffile.imread,
        ".tif",
        numbers(4, "float32", -100, 2900, unit="reflectance", bands=(1, 2, 3, 5), rgb=(3, 2, 1)),
        ".tif",
        (
            "--data.bands",
            "1",
            "2",
            "3",
            "5",
            "--data.unit",
            "reflectance",
            "--evaluation.rgb",
            "3",
            "2",
            "1",
            "--evaluation.perceptual",
            "random_features",
        ),
    ),
    "NIfTI": Case(write_slices, read_first_slice, ".nii", numbers(1, "int16", 0, 900), ".tif", ("--data.pages", "all")),
    "planar TIFF": Case(write_planar_tiff, read_planar_tiff, ".tif", numbers(3, "uint16", 0, 65535), ".png"),
    "OpenEXR": Case(
        write_exr, read_exr, ".exr", numbers(3, "float32", 0, 20, gamma=2.2), ".tif", ("--data.gamma", "2.2")
    ),
}


def run_options(case: Case, folder: Path) -> list[str]:
    if case.form.numbers and "--data.window" not in case.options:
        low, high = case.form.ranges[0]
        case = case._replace(options=(*case.options, "--data.value_range", str(low), str(high)))
    return [
        *("--data.source", "folder", "--data.path", str(folder), "--data.heldout_share", "0.3"),
        *("--model.image_channels", str(case.form.channels), "--loss.perceptual", "none"),
        *("--loss.perceptual_weight", "0", *case.options),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_from_training_to_decoded_files(main: Main, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    images = tmp_path / "images"
    images.mkdir()
    for number in range(IMAGES):
        case.write(images, number)
    assert main(arguments(tmp_path, 2, *run_options(case, images))) == 0
    model = tmp_path / "run" / "model"
    assert PixelFormat.from_json((model / "pixel_format.json").read_text()) == case.form

    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    assert ("mae" in evaluation) == case.form.numbers
    assert evaluation["perceptual"]["value"] is not None or "random_features" not in case.options
    if case.form.numbers:
        assert evaluation["mae"]["unit"] == case.form.unit

    file, out = images / f"0{case.suffix}", tmp_path / "out"
    assert latent_ae(["encode", str(file), "--model", str(model), "-o", str(out)]) == 0
    latents = next(out.glob("*.safetensors"))
    assert latent_ae(["decode", str(latents), "--model", str(model), "-o", str(out)]) == 0
    (decoded,) = (path for path in out.iterdir() if path.suffix != ".safetensors")
    assert decoded.suffix == case.decoded

    values = case.read(file)
    array = case.form.array(values if case.form.numbers else Image.open(file))
    codec = Codec.load(str(model))
    (expected,) = codec.decode(codec.encode([array]))
    written = tifffile.imread(decoded) if case.decoded == ".tif" else imagecodecs.png_decode(decoded.read_bytes())
    assert (written.dtype, expected.dtype) == (np.dtype(case.form.dtype),) * 2
    assert np.array_equal(written.reshape(array.shape), expected)
    low, high = case.form.ranges[0]
    assert low <= expected.min() < expected.max() <= high

    # What two updates keep is little: an autoencoder that loses nothing shows that nothing else does.
    (back,) = lossless(case.form).decode(lossless(case.form).encode([array]))
    exact = np.issubdtype(back.dtype, np.integer)
    np.testing.assert_allclose(back, array.clip(low, high), atol=0 if exact else 1e-5 * (high - low))
    upload = read_image(read_upload(file, ServiceLimits()), pixels=case.form, limits=ServiceLimits())
    assert np.array_equal(upload.pixels, array)
    assert latent_ae(["export", "diffusers", "--model", str(model), "-o", str(tmp_path / "vae")]) == 0
