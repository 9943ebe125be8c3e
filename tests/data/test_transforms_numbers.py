"""Numbers: the data's own values, of any type."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_ae.randomness import numpy_generator
from tests.data.crops import assert_same_values, crop, numbers, of_mode, view

NUMBERS = ("uint8", "int16", "uint16", "int32", "float16", "float32", "float64")
CROPS: tuple[dict[str, Any], ...] = (
    {"crop": "center"},
    {},
    {"resolution": (12, 20), "scale": (0.5, 2.5), "flip": True},
    {"crop": "random", "largest": True, "resolution": (24, 16)},
)


@pytest.mark.parametrize("change", CROPS)
def test_numbers_are_cut_and_resized_as_pictures_are(change: dict[str, Any]) -> None:
    picture = Image.fromarray(np.asarray(of_mode("RGB")) // 2 + 64)  # no filter leaves 0..255
    for draw in range(4):
        values = crop(np.asarray(picture).astype(np.float64) * 1000 - 7, draw, channels=numbers(3), **change)
        assert_same_values((values + 7) / 1000, crop(picture, draw, **change))
    for size in (None, 16, 47, (20, 50), (80, 60)):
        thousands = np.asarray(picture).astype(np.int32) * 1000
        assert_same_values(view(thousands, size, numbers(3)) / 1000, view(picture, size))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_a_cut_keeps_numbers_and_their_type_and_a_resized_part_is_float(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (20, 30, 5)).astype(dtype)
    values[3, 4] = np.iinfo(dtype).max if values.dtype.kind in "iu" else 1000.5
    cut = crop(values, resolution=(20, 30), channels=numbers(5))
    assert cut.dtype == values.dtype
    assert np.array_equal(cut, values)
    assert np.array_equal(view(values, None, numbers(5)), values)
    halved = crop(np.full((20, 30, 2), 77, dtype), crop="center", resolution=(10, 15), channels=numbers(2))
    assert halved.dtype == np.float32
    assert np.allclose(halved, 77, rtol=1e-6)


def test_a_part_of_a_large_scan_is_that_of_the_whole_resized_by_pillow_in_its_chosen_bands() -> None:
    values = np.random.default_rng(0).normal(size=(300, 400, 3)) * 1e4
    part = crop(values, 5, scale=(1.5, 3.0), channels=numbers(2, bands=(3, 1)))
    generator = numpy_generator(0, "crop", 5)
    side = round(16 * generator.uniform(1.5, 3.0))
    left, top = int(generator.integers(400 - side, endpoint=True)), int(generator.integers(300 - side, endpoint=True))
    box = (left, top, left + side, top + side)
    for channel, band in enumerate((2, 0)):
        plane = Image.fromarray(values[:, :, band].astype(np.float32))
        expected = plane.resize((16, 16), Image.Resampling.LANCZOS, box=box)
        assert np.array_equal(part[:, :, channel], np.asarray(expected))


def test_numbers_have_no_levels_to_gain() -> None:
    with pytest.raises(ValueError, match="color_gain multiplies the levels of pictures"):
        crop(np.zeros((16, 16, 1), np.float32), channels=numbers(1), color_gain=0.5)
