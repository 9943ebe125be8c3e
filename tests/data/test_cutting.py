"""Parts of pictures of any mode, cut before they are converted: the same pixels as of the whole that is converted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from latent_ae.io.image import BrokenImage, open_image, to_pil, to_uint8
from latent_ae.io.image_file import color
from tests.data.crops import crop, of_mode, view

MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "RGB key", "L key", "P key", "RGBA", "LA", "PA", "La")
MODES += ("I;16", "I", "F")


def assert_as_converted_before(image: Image.Image) -> None:
    """Crops and views of an image are those of the same image as 8-bit grey or RGB, which they convert to nothing."""
    for channels in (1, 3):
        before = to_pil(to_uint8(image, channels, (10, 200, 30)))
        assert before.mode == ("L" if channels == 1 else "RGB")
        same: dict[str, Any] = {"channels": channels, "background": (10, 200, 30)}
        for resolution in (16, 47, 80):
            assert np.array_equal(view(image, resolution, **same), view(before, resolution, **same))
        for change in ({}, {"crop": "center"}, {"scale": (0.5, 2.5)}, {"flip": True, "color_gain": 0.3}):
            for draw in range(4):
                assert np.array_equal(crop(image, draw, **same, **change), crop(before, draw, **same, **change))


@pytest.mark.parametrize("mode", MODES)
def test_a_crop_is_that_of_the_converted_image(mode: str) -> None:
    assert_as_converted_before(of_mode(mode))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_is_that_of_the_upright_image(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    of_mode("RGB").save(tmp_path / "turned.jpg", exif=exif)
    assert_as_converted_before(open_image(tmp_path / "turned.jpg"))
    with Image.open(tmp_path / "turned.jpg") as turned:
        assert_as_converted_before(turned)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_a_crop_is_that_of_the_image_in_srgb(mode: str, tmp_path: Path) -> None:
    profile = color.matrix_profile("wide", ((0.7, 0.29), (0.17, 0.78), (0.13, 0.05)), (1.8,))
    of_mode(mode).save(tmp_path / "wide.png", icc_profile=profile)
    image = open_image(tmp_path / "wide.png")
    if mode != "L":  # a profile of colours does not fit grey
        assert not np.array_equal(np.asarray(image), np.asarray(of_mode(mode)))
    assert_as_converted_before(image)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK", "RGBA", "LA"])
def test_a_cut_does_not_convert_the_whole_image(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = []
    convert = Image.Image.convert

    def noted(image: Image.Image, *arguments: Any, **named: Any) -> Image.Image:
        converted.append(image.size)
        return convert(image, *arguments, **named)

    image = of_mode(mode)
    monkeypatch.setattr(Image.Image, "convert", noted)
    crop(image)
    assert set(converted) == (set() if mode in ("L", "RGB") else {(16, 16)})


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_part_may_be_transparent_and_an_image_may_not(mode: str) -> None:
    clear = Image.new(mode, (40, 40))
    for channels in (1, 3):
        for change in ({"crop": "center"}, {}, {"scale": (1.5, 2.0)}):
            with pytest.raises(BrokenImage, match="every pixel of it is transparent"):
                crop(clear, channels=channels, **change)
    spot = clear.copy()
    spot.putpixel((39, 39), (255,) * len(mode))
    assert np.array_equal(crop(spot, background=(1, 2, 3)), np.full((16, 16, 3), (1, 2, 3)))
    assert np.array_equal(crop(clear, channels=4), np.zeros((16, 16, 4)))


@pytest.mark.parametrize(("mode", "value"), [("F", 1.5), ("I", 70000), ("I", -1)])
def test_what_makes_an_image_unusable_is_found_outside_of_the_cut_too(mode: str, value: float) -> None:
    values = np.zeros((40, 40), np.float32 if mode == "F" else np.int32)
    values[0, 0] = value
    for change in ({"crop": "center"}, {}):
        with pytest.raises(BrokenImage, match="expected"):
            crop(Image.fromarray(values), 3, **change)


# --------------------------------------------------------------------------------- pictures that keep their alpha


@pytest.mark.parametrize("channels", [2, 4])
def test_hidden_colours_do_not_bleed_into_a_resized_picture(channels: int) -> None:
    hidden = np.zeros((64, 64, 4), np.uint8)
    hidden[:, :32] = (0, 200, 0, 255)
    hidden[:, 32:, 0] = 255  # red beneath full transparency
    levels = crop(Image.fromarray(hidden), crop="center", channels=channels)
    green = (117,) if channels == 2 else (0, 200, 0)
    assert levels.shape == (16, 16, channels)
    seen = levels[levels[:, :, -1] > 25]
    assert np.abs(seen[:, :-1].astype(int) - green).max() <= 5  # 8 bits times little alpha
    assert levels[:, :7, -1].min() >= 254
    assert levels[:, 9:, -1].max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGB", "L", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("channels", [2, 4])
def test_a_cut_with_alpha_is_that_of_the_whole_picture(channels: int, mode: str) -> None:
    image = of_mode(mode)
    whole = to_uint8(image, channels)
    assert whole.shape == (47, 61, channels)
    assert (whole[:, :, -1].min() < 255) == (mode in ("RGBA", "LA", "La"))
    levels = crop(image, 3, channels=channels, color_gain=0.3)
    plain = crop(image, 3, channels=channels)
    assert any(np.array_equal(plain, whole[y : y + 16, x : x + 16]) for y in range(32) for x in range(46))
    assert np.array_equal(levels[:, :, -1], plain[:, :, -1])  # alpha gains nothing
    assert not np.array_equal(levels, plain)
