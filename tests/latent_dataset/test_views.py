"""What is encoded of an image and its id, against the image converted whole, then cut and resized."""

import hashlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_ae.data import SourceParts
from latent_ae.data.transforms import Fitting
from latent_ae.io.image import to_pil, to_uint8
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.latent_dataset.images import Images, View
from latent_ae.latent_dataset.manifest import PreprocessingPart
from tests.data.crops import of_mode
from tests.data.images import ListSource

BACKGROUND = (10, 200, 30)
FORMATS = {
    "grey": PixelFormat.picture(1),
    "RGB": PixelFormat.picture(3),
    "grey and alpha": PixelFormat.picture(2),
    "RGBA": PixelFormat.picture(4),
    "premultiplied": PixelFormat.picture(4, alpha="premultiplied"),
}


def view(image: Any, form: PixelFormat, resolution: tuple[int, int] | None) -> View:
    source = ListSource([image])
    preprocessing = PreprocessingPart(
        channels=form.channels, resolution=resolution, background=BACKGROUND, flips=False, pixel_format=form
    )
    found = Images(SourceParts(source, ListSource([])), "train").view(0, preprocessing)
    assert isinstance(found, View)
    return found


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGB key", "CMYK", "RGBA", "LA", "La", "I;16", "F"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_view_and_the_id_are_those_of_the_whole_converted_image(form: str, mode: str) -> None:
    image, pixels = of_mode(mode), FORMATS[form]
    levels = to_uint8(image, pixels.channels, BACKGROUND)
    whole = view(image, pixels, None)
    assert np.array_equal(whole.values, pixels.with_alpha(levels))
    stated = "{}x{}x{}|".format(*levels.shape).encode()
    assert whole.row["id"] == hashlib.sha256(stated + pixels.with_alpha(levels).tobytes()).hexdigest()

    seen = view(image, pixels, (16, 24))
    converted = to_pil(levels)
    box, size = Fitting().place(converted, (16, 24), None)
    resized = np.asarray(converted.resize(size[::-1], Image.Resampling.LANCZOS, box=box)).reshape(16, 24, -1)
    assert np.array_equal(seen.values, pixels.with_alpha(resized))
    assert (seen.row["id"], seen.row["crop"]) == (whole.row["id"], list(box))


def test_bands_of_numbers_are_taken_once() -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, (24, 20, 4), np.uint16)
    pixels = PixelFormat(2, numbers=True, dtype="uint16", ranges=((0.0, 1000.0),), bands=(4, 2))
    taken = numbers[:, :, [3, 1]]
    assert np.array_equal(view(numbers, pixels, None).values, taken)
    assert np.array_equal(view(numbers, pixels, (20, 20)).values, taken[2:22])
    identity = b"24x20x2uint16|" + taken.astype("<u2").tobytes()
    assert view(numbers, pixels, (20, 20)).row["id"] == hashlib.sha256(identity).hexdigest()
