"""What a picture has that a model does not know or cannot keep."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from latent_ae.io.pixel_format import PixelFormat
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.service import Service
from latent_ae.service.suitability import conversions, unlike_training

from .conftest import saved


@pytest.fixture
def info(service: Service) -> ModelInfo:
    grey = PixelFormat.picture(1)
    known = {"trained_on": "digits", "native_size": 32, "channels": 1, "pixel_format": grey}
    return dataclasses.replace(service.models()[0], id="digits", **known)


def test_a_photograph_is_unlike_digits(info: ModelInfo) -> None:
    size = "768 \N{MULTIPLICATION SIGN} 512"
    assert unlike_training(info, 512, 768, colored=True) == (
        f"digits was trained on 32-pixel grey digits; this is a colour picture of {size} pixels, shown in grey."
    )
    assert unlike_training(info, 512, 768, colored=False) == (
        f"digits was trained on 32-pixel grey digits; this is a picture of {size} pixels."
    )
    other = dataclasses.replace(info, trained_on="", native_size=None)
    assert unlike_training(other, 8, 8, colored=True).startswith("digits was trained on grey images; this is a colour")


def test_what_is_like_the_training_images_needs_no_sentence(info: ModelInfo) -> None:
    assert unlike_training(info, 32, 128, colored=False) == ""
    photos = dataclasses.replace(info, channels=3, pixel_format=PixelFormat.picture(3), trained_on="photos")
    assert unlike_training(photos, 512, 768, colored=True) == ""


def test_what_is_laid_over_white_and_what_is_cmyk_is_told() -> None:
    opaque, rgb = Image.new("RGBA", (4, 4), (1, 2, 3, 255)), PixelFormat.picture(3)
    assert conversions(opaque, rgb) == ()
    opaque.putpixel((0, 0), (1, 2, 3, 100))
    assert conversions(opaque, rgb) == ("is transparent in places, which were laid over white",)
    assert conversions(opaque, PixelFormat.picture(4)) == ()
    assert "CMYK" in conversions(Image.new("CMYK", (4, 4)), rgb)[0]


def test_a_reconstruction_says_what_the_upload_lost(service: Service) -> None:
    half = np.zeros((8, 8, 4), np.uint8)
    half[:4] = (200, 10, 10, 255)
    found = service.reconstruct(saved(half, "PNG"))
    assert found.encoded.remarks == ("is transparent in places, which were laid over white",)
    assert found.original[7, 7].tolist() == [255, 255, 255]
    assert found.unlike == ""
