"""What the values of an image mean."""

import numpy as np
import pytest
import torch
from PIL import Image

from latent_ae.errors import BrokenImage, UserError
from latent_ae.io.image import to_tensor
from latent_ae.io.pixel_format import FILE, PixelFormat, read_pixel_format


def ramp(dtype: str, channels: int = 1) -> np.ndarray:
    limits = np.iinfo(dtype)
    values = np.linspace(limits.min, limits.max, 64 * 64).round().astype(dtype)
    return np.repeat(values.reshape(64, 64, 1), channels, axis=2)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32"])
def test_integers_come_back_as_they_were(dtype: str) -> None:
    limits = np.iinfo(dtype)
    form = PixelFormat(5, numbers=True, dtype=dtype, ranges=((limits.min, limits.max),))
    array = ramp(dtype, 5)
    tensor = form.to_tensor(array)
    assert tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (-1, 1)
    back = form.from_tensor(tensor)
    assert back.dtype == array.dtype
    # float32 has 24 bits: the 32-bit ends can be a few hundred apart
    assert int(np.abs(back.astype(np.int64) - array).max()) <= (0 if dtype != "int32" else 256)


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_values_by_hand(gamma: float) -> None:
    form = PixelFormat(2, numbers=True, dtype="float32", ranges=((-100, 300), (0, 4)), gamma=gamma)
    array = np.array([[[0.0, 1.0], [300.0, 5.0]]], np.float32)
    share = np.array([[0.25, 0.25], [1.0, 1.0]]) ** (1 / gamma)  # 5 is beyond 0..4
    np.testing.assert_allclose(form.to_tensor(array)[:, 0].T, share * 2 - 1, atol=1e-6)
    np.testing.assert_allclose(form.from_tensor(form.to_tensor(array)), [[[0, 1], [300, 4]]], atol=1e-4)
    np.testing.assert_allclose(form.in_units(form.to_tensor(array))[:, 0, 0], [0, 1], atol=1e-4)


def test_pictures_are_what_they_were() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    form = PixelFormat.picture(3)
    assert form.is_default
    assert not PixelFormat.picture(4).is_default
    assert not PixelFormat(5, numbers=True).is_default
    assert torch.equal(form.to_tensor(levels), to_tensor(levels))
    assert np.array_equal(form.from_tensor(to_tensor(levels)), levels)
    assert np.array_equal(form.preview(levels), levels)


def test_what_a_preview_shows_is_said() -> None:
    assert [PixelFormat.picture(channels).describe_preview() for channels in (1, 2, 3, 4)] == [
        *("", "channel 1 of 2, over a checkerboard", "", "channels 1, 2, 3 of 4, over a checkerboard")
    ]
    deep = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 4095.0),))
    assert deep.describe_preview() == "channel 1 of 1 in 8 bits"


def test_alpha_is_kept_or_multiplied() -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 128))
    assert PixelFormat.picture(4).array(image)[0, 0].tolist() == [200, 100, 50, 128]
    by_hand = [round(level * 128 / 255) for level in (200, 100, 50)]
    assert PixelFormat.picture(4, alpha="premultiplied").array(image)[0, 0].tolist() == [*by_hand, 128]
    assert PixelFormat.picture(2).array(Image.new("L", (1, 1), 9))[0, 0].tolist() == [9, 255]
    assert PixelFormat.picture(4).array(Image.new("L", (1, 1), 9))[0, 0].tolist() == [9, 9, 9, 255]


def test_a_preview_shows_transparency_over_a_checkerboard() -> None:
    array = np.zeros((16, 16, 4), np.uint8)
    array[:, 8:] = (10, 20, 30, 255)
    shown = PixelFormat.picture(4).preview(array)
    assert shown[0, 0].tolist() == [255] * 3
    assert shown[8, 0].tolist() == [204] * 3
    assert shown[0, 8].tolist() == [10, 20, 30]
    grey = PixelFormat.picture(2, alpha="premultiplied").preview(np.full((1, 1, 2), 128, np.uint8))
    assert grey.tolist() == [[[128 + 127]]]


def test_bands_and_shown_channels_count_from_1() -> None:
    array = np.arange(6, dtype=np.uint16).reshape(1, 1, 6)
    form = PixelFormat(4, numbers=True, dtype="uint16", ranges=((0, 255),), bands=(6, 1, 2, 3), rgb=(3, 2, 1))
    taken = form.array(array)
    assert taken.ravel().tolist() == [5, 0, 1, 2]
    assert form.preview(taken).ravel().tolist() == [1, 0, 5]
    assert form.shown_tensor(torch.arange(4.0).reshape(4, 1, 1)).ravel().tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: PixelFormat(65, numbers=True), "1 to 64 channels, got 65"),
        (lambda: PixelFormat(5), "give data.value_range"),
        (lambda: PixelFormat(1, numbers=True, ranges=((3, 3),)), "low < high, got 3 and 3"),
        (lambda: PixelFormat(3, numbers=True, ranges=((0, 1), (0, 1))), "or 3 .one a channel., got 2"),
        (lambda: PixelFormat(3, rgb=(1, 2, 4)), "of 1 to 3, got 1, 2, 4"),
        (lambda: PixelFormat(3, numbers=True, bands=(1, 2)), "names 2 channels, the model's images have 3"),
    ],
)
def test_what_cannot_be_is_refused(made, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made()


def test_an_array_that_does_not_fit_is_refused() -> None:
    form = PixelFormat(4, numbers=True)
    with pytest.raises(BrokenImage, match="it has 3 channels, the model's images have 4"):
        form.array(np.zeros((2, 2, 3)))
    with pytest.raises(BrokenImage, match="1 of its 16 values are not finite"):
        form.array(np.array([np.nan, *[0] * 15]).reshape(2, 2, 4))
    with pytest.raises(BrokenImage, match=r"it has 3 channels, data\.bands asks for 4 "):
        PixelFormat(1, numbers=True, bands=(4,)).array(np.zeros((2, 2, 3)))


@pytest.mark.parametrize("alpha", ["straight", "premultiplied"])
def test_networks_see_transparent_pictures_over_a_colour(alpha: str) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    background = (10, 200, 90)
    over = Image.alpha_composite(Image.new("RGBA", (16, 16), (*background, 255)), Image.fromarray(levels))
    pixels = levels.astype(np.float64) / 127.5 - 1
    if alpha == "premultiplied":
        pixels[..., :3] = (levels[..., :3] / 255.0) * (levels[..., 3:] / 255.0) * 2 - 1
    form = PixelFormat.picture(4, alpha=alpha)
    seen = form.shown_tensor(torch.from_numpy(pixels).movedim(-1, 0), background)
    np.testing.assert_allclose((seen.movedim(0, -1) + 1) * 127.5, np.asarray(over)[..., :3], atol=1.01)
    grey = PixelFormat.picture(4, alpha=alpha, rgb=(2,)).shown_tensor(torch.full((4, 1, 1), -1.0), (50, 50, 50))
    assert float((grey + 1) * 127.5) == pytest.approx(50)
    with pytest.raises(UserError, match=r"evaluation\.rgb takes one channel .* of 1 to 3, got 4"):
        PixelFormat.picture(4, rgb=(4,))


def test_the_file_is_read_back(tmp_path) -> None:
    form = PixelFormat(5, numbers=True, dtype="int16", ranges=((-1024.5, 3071),), gamma=1.5, rgb=(3, 2, 1), unit="HU")
    (tmp_path / FILE).write_text(form.to_json())
    assert read_pixel_format(tmp_path, 5) == form
    with pytest.raises(UserError, match="is of 5 channels, the model takes 3"):
        read_pixel_format(tmp_path, 3)
    (tmp_path / FILE).write_text('{"channels": 5, "size": 3}')
    with pytest.raises(UserError, match="cannot be read: expected the keys"):
        read_pixel_format(tmp_path, 5)
    (tmp_path / FILE).unlink()
    assert read_pixel_format(tmp_path, 4) == PixelFormat.picture(4)
    with pytest.raises(UserError, match=r"of 7 channels, and .* has no pixel_format.json"):
        read_pixel_format(tmp_path, 7)
