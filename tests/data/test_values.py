"""The pixel format of a run follows from its settings and its training images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latent_ae.config.section import validate
from latent_ae.data import DigitsConfig, FolderConfig
from latent_ae.data.source import DataError
from latent_ae.data.values import pixel_format, read_as
from latent_ae.errors import BrokenImage, UserError
from latent_ae.io.pixel_format import PixelFormat


class Arrays:
    """A source of numbers; None is an image that cannot be read."""

    def __init__(self, arrays: list[np.ndarray | None]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def sample_id(self, index: int) -> str:
        return f"a/{index}"

    def load(self, index: int) -> np.ndarray:
        if (array := self.arrays[index]) is None:
            raise BrokenImage("it is cut short")
        return array


def settings(tmp_path: Path, **given: Any) -> FolderConfig:
    return validate(FolderConfig, {"path": str(tmp_path), **given})


def noise(*shape: int, dtype: str = "int16") -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 3000, shape).astype(dtype)


def test_percentiles_are_numpys_over_all_values(tmp_path: Path) -> None:
    arrays = [noise(9, 7, 2) + place for place in range(5)]
    expected = np.percentile(np.stack(arrays).astype(float), [1, 99])
    found = pixel_format(settings(tmp_path, percentiles=[1, 99], unit="HU"), Arrays([None, *arrays]), channels=2)
    assert found == PixelFormat(2, numbers=True, dtype="int16", ranges=(tuple(expected),), unit="HU")
    each = np.percentile(np.stack(arrays).reshape(-1, 2).astype(float), [1, 99], axis=0).T
    per_channel = settings(tmp_path, percentiles=[1, 99], per_channel=True)
    assert pixel_format(per_channel, Arrays(arrays), channels=2).ranges == tuple(map(tuple, each))


def test_large_images_give_their_percentiles_by_evenly_spread_positions(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("latent_ae.data.values._VALUES", 2000)
    ramp = np.linspace(0, 1, 100 * 100, dtype=np.float32).reshape(100, 100, 1)
    found = pixel_format(settings(tmp_path, percentiles=[10, 90]), Arrays([ramp, ramp]), channels=1)
    np.testing.assert_allclose(found.ranges, [(0.1, 0.9)], atol=2e-3)


@pytest.mark.parametrize(
    ("given", "ranges"),
    [
        ({"window": [40, 400]}, ((-160, 240),)),
        ({"value_range": [0, 4095]}, ((0, 4095),)),
        ({"value_range": [0, 1, -5, 5], "gamma": 2.2, "bands": [4, 1]}, ((0, 1), (-5, 5))),
    ],
)
def test_given_ranges(tmp_path: Path, given: dict[str, Any], ranges: tuple) -> None:
    source = Arrays([noise(4, 4, 4 if "bands" in given else 2, dtype="float64")])
    found = pixel_format(settings(tmp_path, **given), source, channels=2, rgb=[2])
    assert (found.ranges, found.dtype, found.rgb) == (ranges, "float64", (2,))
    assert (found.gamma, found.bands) == (given.get("gamma", 1), tuple(given.get("bands", ())))


@pytest.mark.parametrize(
    ("dtypes", "held"),
    [(["uint8", "uint16"], "uint16"), (["int16", "uint16"], "int32"), (["uint8", "float32"], "float32")],
)
def test_decoded_images_have_a_type_that_holds_every_image(tmp_path: Path, dtypes: list[str], held: str) -> None:
    """The first one's would cut the values of the others."""
    source = Arrays([noise(4, 4, 1, dtype=dtype) for dtype in dtypes])
    assert pixel_format(settings(tmp_path, value_range=[0, 4095]), source, channels=1).dtype == held


def test_pictures_need_no_image_to_be_read(tmp_path: Path) -> None:
    assert pixel_format(settings(tmp_path), Arrays([]), channels=3).is_default
    found = pixel_format(settings(tmp_path, alpha="premultiplied"), Arrays([]), channels=4)
    assert found == PixelFormat(4, alpha="premultiplied")


@pytest.mark.parametrize(
    ("given", "arrays", "channels", "message"),
    [
        ({"percentiles": [1, 99]}, [np.full((3, 3, 1), 7)], 1, "1 and 99 of the training images are both 7: give"),
        (
            {"percentiles": [1, 99], "per_channel": True},
            [np.arange(18).reshape(3, 3, 2) * [1, 0]],
            2,
            "99 of channel 2 of the training images are both 0",
        ),
        (
            {"value_range": [0, 1]},
            [None],
            1,
            "none of 1 training images can be read as numbers; the last: a/0: it is cu",
        ),
        ({"value_range": [0, 1]}, [noise(2, 2, 3)], 4, "a/0: it has 3 channels, the model's images have 4"),
        ({"value_range": [0, 1, 0, 1]}, [noise(2, 2, 3)], 3, "expected one range, or 3 .one a channel., got 2"),
        ({"alpha": "straight"}, [], 3, "data.alpha straight is of images with 2 or 4 channels, the model's have 3"),
        ({}, [], 5, "give data.value_range"),
    ],
)
def test_what_does_not_fit_is_one_line(
    tmp_path: Path, given: dict[str, Any], arrays: list[np.ndarray | None], channels: int, message: str
) -> None:
    with pytest.raises((UserError, DataError), match=message) as caught:
        pixel_format(settings(tmp_path, **given), Arrays(arrays), channels=channels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"value_range": [5, 5]}, "data.value_range needs low < high, got 5 and 5"),
        ({"value_range": [1, 2, 3]}, "takes pairs low, high, got 3 numbers"),
        ({"percentiles": [99, 1]}, "data.percentiles needs low < high, got 99 and 1"),
        ({"percentiles": [1, 99], "window": [40, 400]}, "data.percentiles and data.window say the same"),
        ({"gamma": 2.2}, "data.gamma take effect only where images are read as numbers"),
        ({"bands": [1], "unit": "K"}, "data.bands and data.unit take effect only"),
        ({"per_channel": True}, "data.per_channel has an effect only with data.percentiles"),
        ({"alpha": "straight", "value_range": [0, 1]}, "data.value_range reads numbers: leave one of them out"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        settings(tmp_path, **given)
    assert "\n" not in str(caught.value)


def test_a_record_of_the_choice_made_before_has_no_word_of_it(tmp_path: Path) -> None:
    """Latent data sets encoded before images had a range go on."""
    assert {"value_range", "alpha", "unit"}.isdisjoint(settings(tmp_path).choice())
    assert settings(tmp_path, value_range=[0, 9]).choice()["value_range"] == [0, 9]


NUMBERS = PixelFormat(
    2, numbers=True, dtype="int16", ranges=((-1000.0, 3000.0), (0.0, 10.0)), gamma=2.2, bands=(4, 1), unit="HU"
)
ENDS = (-1000, 3000, 0, 10)


@pytest.mark.parametrize(
    "settings",
    [{}, {"percentiles": (1, 99), "per_channel": True}, {"value_range": ENDS}, {"value_range": ENDS, "bands": (1, 2)}],
)
def test_numbers_are_read_in_the_ranges_of_the_model(settings: dict) -> None:
    config = read_as(NUMBERS, FolderConfig(path="x", **settings, workers=2), "runs/ct")
    assert config.given_ranges() == NUMBERS.ranges
    assert (config.gamma, config.unit, config.workers) == (2.2, "HU", 2)
    assert config.bands == settings.get("bands", (4, 1))
    assert FolderConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("pixels", "settings", "message"),
    [
        (NUMBERS, {"value_range": (0, 10)}, "data.value_range has no effect, runs/ct reads 2 channels, int16 in -1000"),
        (NUMBERS, {"window": (0, 10)}, "data.window has no effect, runs/ct reads 2 channels"),
        (PixelFormat.picture(3), {"value_range": (0, 10)}, "data.value_range has no effect, runs/ct reads RGB: leave"),
        (PixelFormat.picture(3), {"percentiles": (1, 99)}, "data.percentiles has no effect, runs/ct reads RGB"),
        (PixelFormat.picture(4), {"alpha": "premultiplied"}, "data.alpha premultiplied has no effect, runs/ct reads"),
    ],
)
def test_other_values_than_those_of_the_model_are_refused(pixels: PixelFormat, settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_as(pixels, FolderConfig(path="x", **settings), "runs/ct")


def test_pictures_stay_pictures() -> None:
    config = DigitsConfig(alpha="straight")
    assert read_as(PixelFormat.picture(4), config, "runs/sprites") is config


def test_pictures_that_need_no_download_are_not_read_as_numbers() -> None:
    with pytest.raises(
        DataError, match=r"runs/ct reads 2 channels, .* HU, gamma 2.2, and data.source digits holds pic"
    ):
        read_as(NUMBERS, DigitsConfig(), "runs/ct")
    with pytest.raises(
        ValueError, match=r"data\.source digits holds pictures, which are not read as numbers: take folder"
    ):
        DigitsConfig(value_range=(0, 16))
