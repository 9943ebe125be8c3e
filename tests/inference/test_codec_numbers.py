"""The codec over images of any number of channels, and of numbers in their own units."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec, precision
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import Format
from latent_ae.io.latent_file.latents import LatentFileError, from_bytes, to_bytes
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from tests.inference.numbers import lossless

BANDS = PixelFormat(
    5, numbers=True, dtype="float32", ranges=((0.0, 1.0), (-1.0, 0.0), (0.0, 4095.0), (-5.0, 5.0), (0.0, 1e-3))
)


def of_format(form: PixelFormat, height: int, width: int) -> np.ndarray:
    """Random values within the format's ranges."""
    shares = np.random.default_rng(0).random((height, width, form.channels))
    low, high = np.array(form.ranges, np.float64).T
    values = low + shares * (high - low)
    return (values.round() if np.dtype(form.dtype).kind in "iu" else values).astype(form.dtype)


def test_a_ramp_of_16_bits_keeps_its_16_bits_through_codec_and_latent_file() -> None:
    form = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),))
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    codec = lossless(form)
    (latents,) = codec.encode([ramp])
    (back,) = codec.decode([from_bytes(to_bytes(latents))])
    assert back.dtype == np.uint16
    assert np.array_equal(back, ramp)


@pytest.mark.parametrize(
    "form",
    [
        BANDS,
        PixelFormat(2, numbers=True, dtype="int16", ranges=((-1000.0, 3000.0),)),
        PixelFormat(64, numbers=True, dtype="float16", ranges=((-1.0, 1.0),), gamma=2.2),
        PixelFormat.picture(4, alpha="premultiplied"),
        PixelFormat.picture(2),
    ],
)
def test_images_come_back_in_their_own_units_and_type(form: PixelFormat) -> None:
    images = [of_format(form, 7, 10), of_format(form, 16, 4)]
    codec = lossless(form)
    latents = codec.encode(images)
    assert [each.pixel_format for each in latents] == [form] * 2
    low, high = np.array(form.ranges).T
    for image, back in zip(images, codec.decode(latents), strict=True):
        assert (back.dtype, back.shape) == (image.dtype, image.shape)
        error = np.abs(back.astype(np.float64) - image) / (high - low)
        assert error.max() < (1e-3 if form.dtype == "float16" else 1e-6)


@pytest.mark.parametrize("channels", [2, 4, 5, 64])
def test_stock_models_of_any_number_of_channels_run(channels: int) -> None:
    form = (
        PixelFormat.picture(channels) if channels < 5 else PixelFormat(channels, numbers=True, ranges=((0.0, 255.0),))
    )
    model = build_autoencoder(ModelConfig(preset="tiny", image_channels=channels), seed=0, resolution=16)
    codec = Codec(model, name="m", pixel_format=form, precision="bf16", tile=16)
    image = of_format(form, 21, 18)
    (made,) = codec.reconstruct_measured([image])
    assert (made.image.dtype, made.image.shape) == (np.uint8, image.shape)
    assert made.compute.tiles > 1
    assert codec.plan(64, 64).encode_bytes > 4 * channels * 64**2
    assert photo_like(channels, 8).shape == (1, channels, 8, 8)


def test_arithmetic_that_is_too_coarse_for_16_bits_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: True)
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    with torch.no_grad():  # so that bfloat16 is close enough for 8 bits
        model.decoder.conv_out.weight.mul_(0.01)
    deep = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),))
    chosen = [Codec(model, name="m", pixel_format=form).precision.decoder.precision for form in (None, deep)]
    assert chosen == ["bf16", "fp32"]
    assert Format(chosen[1]).dtype == torch.float32


def test_other_channels_values_and_pixels_are_refused() -> None:
    codec, image = lossless(BANDS), of_format(BANDS, 4, 4)
    (latents,) = codec.encode([image])
    for wrong, message in (
        (image[:, :, :3], "the image has 3 channels, the model lossless takes 5 channels"),
        (image[:, :, 0], r"the image is an array \[4, 4\] and not \[H,W,C\], the model"),
        (np.where(image > 0.5, np.nan, image), "holds [0-9]+ values that are not finite"),
    ):
        with pytest.raises(UserError, match=message):
            codec.encode([wrong])
    for other in (replace(BANDS, dtype="float64"), replace(BANDS, gamma=1.5)):
        with pytest.raises(LatentFileError, match=r"are of images of 5 channels, float32 in .* the model"):
            lossless(other).decode([latents])
    with pytest.raises(UserError, match="the pixel format has 5 channels, the model m takes 1"):
        Codec(build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16), name="m", pixel_format=BANDS)
