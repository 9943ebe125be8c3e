"""A service of models of numbers and of alpha: nothing is lost, previews are pictures, and bad uploads are refused."""

import io
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile

from latent_ae.evaluation.metrics import quality
from latent_ae.evaluation.perceptual import build_perceptual
from latent_ae.io.image_file.containers import PNG_START
from latent_ae.io.image_writing import image_bytes, suffixes_for
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.service.errors import BadLatents, BadRequest, BrokenUpload, ServiceError, TooLarge, UnsupportedFormat
from latent_ae.service.inspection import difference_map
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.measures import Perceptual, measure
from latent_ae.service.remote import RemoteDecode
from latent_ae.service.service import Service
from latent_ae.service.uploads import Upload, read_image
from tests.image_files import chunk
from tests.inference.numbers import lossless

from .conftest import closing, pixels, png

FORMS = {
    "deep": PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),), unit="HU"),
    "bands": PixelFormat(5, numbers=True, dtype="float32", ranges=((0.0, 1.0), *[(0.0, 100.0)] * 4), rgb=(3, 2, 1)),
    "rgba": PixelFormat.picture(4),
}
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
BANDS = np.random.default_rng(0).random((21, 34, 5), np.float32) * np.float32([1, 100, 100, 100, 100])
RGBA = np.random.default_rng(0).integers(0, 256, (9, 14, 4), dtype=np.uint8)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with closing(Service({name: lossless(form) for name, form in FORMS.items()})) as made:
        yield made


def upload(image: Array, form: PixelFormat) -> bytes:
    return image_bytes(suffixes_for(form)[0], image, form)


@pytest.mark.parametrize(("name", "image"), [("deep", RAMP), ("bands", BANDS), ("rgba", RGBA)])
def test_every_value_survives(service: Service, name: str, image: Array) -> None:
    form = FORMS[name]
    done = service.reconstruct(upload(image, form), model=name)
    (decoded,) = service.decode(done.encoded.file).images
    for back in (done.reconstructed, decoded):
        assert back.dtype == image.dtype
        np.testing.assert_allclose(back, image, atol=0 if form.dtype != "float32" else 1e-4)
    assert [preview.dtype for preview in done.previews] == [np.uint8] * 2
    assert done.previews[0].shape == (*image.shape[:2], 1 if name == "deep" else 3)
    assert np.array_equal(done.previews[1], form.preview(back))
    assert service.baselines(done) == ()
    assert difference_map(*done.previews, tolerance=1, gain=1).max() == 0


def test_pictures_become_images_of_a_model_with_alpha(service: Service) -> None:
    image = service.reconstruct(png(pixels()), model="rgba").reconstructed
    assert np.array_equal(image[:, :, :3], pixels())
    assert (image[:, :, 3] == 255).all()


def test_drawn_and_interpolated_images_are_in_the_units_of_the_data(service: Service) -> None:
    form = FORMS["bands"]
    ends = [upload(np.full((300, 320, 5), value, np.float32), form) for value in (0.25, 0.75)]
    found = service.interpolate(*ends, model="bands", steps=3)
    assert [image.shape for image in found.images] == [(240, 256, 5)] * 3  # smaller, as the frames of pictures are
    for image, value in zip(found.images, (0.25, 0.5, 0.75), strict=True):
        np.testing.assert_allclose(image, value, atol=1e-4)
    assert found.previews[0].shape == (240, 256, 3)
    assert service.sample(model="deep", count=2, size=8).images[0].dtype == np.uint16


def test_errors_are_measured_in_the_units_of_the_data() -> None:
    form, wanted = FORMS["bands"], BANDS
    got = (wanted + np.random.default_rng(1).normal(0, 0.01, wanted.shape)).astype(np.float32)
    network = build_perceptual("random_features", image_channels=3)
    metrics, _ = measure(got, wanted, form, Perceptual(network, ""), lambda: None)
    tensors = [form.to_tensor(image)[None] for image in (got, wanted)]
    expected = quality.compare(*tensors, pixels=form)
    for name, theirs in (("PSNR", "psnr"), ("SSIM", "ssim"), ("MAE", "mae"), ("RMSE", "rmse"), ("MAX", "max_error")):
        assert metrics[name] == pytest.approx(expected[theirs][0], rel=1e-5), name
    shown = [tensor[:, [2, 1, 0]] for tensor in tensors]
    assert metrics["LPIPS"] == pytest.approx(float(network(*shown)))


def npy(shape: tuple[int, ...], dtype: str = "<f4") -> bytes:
    """A file that promises an array, without its values."""
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def header(width: int, height: int) -> bytes:
    """A PNG of 16-bit grey that promises an image, without its values."""
    return PNG_START + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)) + chunk(b"IDAT", b"")


def pages(count: int) -> bytes:
    """A TIFF of so many pages without a tag."""
    places = [8 + 18 * number for number in range(1, count)] + [0]
    tag = struct.pack("<HHII", 256, 3, 1, 4)
    return b"II*\0\x08\0\0\0" + b"".join(struct.pack("<H", 1) + tag + struct.pack("<I", place) for place in places)


def tiff(image: Array, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, image, photometric="minisblack", planarconfig="contig", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (
            tiff(BANDS[:, :, :3]),
            BrokenUpload,
            "it has 3 channels, the model takes images of 5 channels",
        ),
        (tiff(np.where(BANDS > 50, np.nan, BANDS)), BrokenUpload, "of its 3570 values are not finite"),
        (tiff(BANDS)[:-4000], BrokenUpload, "it is cut short"),
        (header(20_000, 8), TooLarge, "a side may have at most 16384"),
        (header(9_000, 9_000), TooLarge, "81.0 million"),
        (header(60_000, 60_000), BrokenUpload, "cannot be used"),
        (npy((20, 30, 5)), BrokenUpload, "it is cut short"),
        (npy((20, 30, 5), "|O"), BrokenUpload, "cannot be used"),
        (pages(1001), BrokenUpload, "it has 1001 pages, expected at most 1000"),
        (b"no image at all", BrokenUpload, "cannot be used"),
    ],
)
def test_uploads_that_cannot_be_used_are_refused(
    service: Service, data: bytes, error: type[ServiceError], message: str
) -> None:
    with pytest.raises(error, match=message):
        service.encode(data, model="bands")


def test_more_values_than_the_limit_are_refused() -> None:
    for most, message in ((700, "in all"), (800, r"0\.0 million values in 5 channels, and this server takes")):
        with pytest.raises(TooLarge, match=message):
            read_image(Upload(tiff(BANDS), ""), pixels=FORMS["bands"], limits=ServiceLimits(pixels=most))


def test_several_pages_and_clipped_values_are_remarked_on(service: Service) -> None:
    pages = np.zeros((3, 16, 24), np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pages, photometric="minisblack")
    (remark,) = service.encode(stream.getvalue(), model="deep").remarks
    assert remark == "has 3 pages, of which this is page 0"
    assert "were clipped" in service.encode(tiff(BANDS + 1), model="bands").remarks[0]


def test_what_has_no_effect_or_no_room_is_refused(service: Service) -> None:
    with pytest.raises(BadRequest, match="baselines: JPEG and WebP cannot hold images of 5 channels"):
        service.reconstruct(tiff(BANDS), model="bands", baselines=True)
    with pytest.raises(UnsupportedFormat, match="a NumPy array"):
        service.encode(npy((4, 4, 4)), model="rgba")
    asked = RemoteDecode(data=bytes(4 * 20 * 4), shape=(1, 20, 2, 2), dtype="float32")
    with pytest.raises(BadRequest, match=r"5 channels, float32 in .*, which this reply cannot hold"):
        service.decode_tensor(asked, model="bands")
    whole = RemoteDecode(data=bytes(4 * 20 * 4), shape=(1, 20, 2, 2), dtype="float32", output_type="pt")
    assert service.decode_tensor(whole, model="bands").headers["shape"] == "[1, 5, 4, 4]"


def test_latents_of_other_pixels_are_refused(service: Service) -> None:
    file = service.encode(tiff(BANDS), model="bands").file
    other = lossless(FORMS["bands"].replace(gamma=2.0))
    with closing(Service({"other": other})) as another, pytest.raises(BadLatents, match=r"float32 .*gamma 2"):
        another.decode(file)
