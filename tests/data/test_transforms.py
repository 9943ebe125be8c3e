from typing import Any

import numpy as np
import pytest
from PIL import Image

from latent_ae.data.transforms import Filter, Fit, Fitting, TrainingCrop
from latent_ae.io.image import BrokenImage
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.randomness import numpy_generator
from tests.data.crops import assert_same_values, crop, numbers, of_mode, positions, view
from tests.data.images import noise_image


def corner(pixels: np.ndarray) -> tuple[int, int]:
    return int(pixels[0, 0, 0]), int(pixels[0, 0, 1])


def test_a_centre_crop_at_its_own_size_is_exact() -> None:
    pixels = crop(positions(40, 16), crop="center")
    assert np.array_equal(pixels, np.asarray(positions(40, 16))[:, 12:28])


def test_a_centre_crop_takes_the_largest_square() -> None:
    pixels = crop(positions(64, 32), crop="center").astype(int)
    # A ramp stays a ramp: pixel i of 16 covers 2 pixels of the 32 whose left edge is at 16.
    expected = 16 + 2 * np.arange(16) + 0.5
    assert np.abs(pixels[8, 2:-2, 0] - expected[2:-2]).max() <= 1
    assert np.abs(pixels[2:-2, 8, 1] - (expected[2:-2] - 16)).max() <= 1


def test_averaging_down_keeps_no_moire() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = crop(Image.fromarray(stripes), crop="center", resolution=16)
    assert np.abs(pixels[:, 2:-2].astype(int) - 127.5).max() <= 3


def test_a_small_image_is_enlarged_for_a_centre_crop_up_to_four_times() -> None:
    assert crop(positions(8, 20), crop="center", resolution=32).shape == (32, 32, 3)
    with pytest.raises(BrokenImage, match="too small: got 8x20, need 8 pixels a side and a quarter of 33x33"):
        crop(positions(8, 20), crop="center", resolution=33)
    with pytest.raises(BrokenImage, match="too small: got 7x20, need 8 pixels a side and a quarter of 16x16"):
        crop(positions(7, 20), crop="center", resolution=16)


def test_random_crops_are_exact_and_reach_every_place() -> None:
    whole = np.asarray(positions(18, 17))
    seen = set()
    for draw in range(60):
        pixels = crop(positions(18, 17), draw)
        left, top = corner(pixels)
        assert np.array_equal(pixels, whole[top : top + 16, left : left + 16])
        seen.add((left, top))
    assert seen == {(left, top) for left in range(3) for top in range(2)}


def test_a_random_crop_of_an_image_of_its_size_is_the_image() -> None:
    assert np.array_equal(crop(positions(16, 16)), np.asarray(positions(16, 16)))


def test_a_random_crop_needs_a_large_enough_image() -> None:
    with pytest.raises(BrokenImage, match="too small: got 40x15, need at least 16x16"):
        crop(positions(40, 15))


def test_scale_takes_squares_of_every_allowed_size() -> None:
    sides = []
    for draw in range(200):
        pixels = crop(positions(200, 100), draw, scale=(1.5, 4.0)).astype(int)
        sides.append((pixels[8, 12, 0] - pixels[8, 3, 0]) / 9 * 16)
        assert abs((pixels[12, 8, 1] - pixels[3, 8, 1]) / 9 * 16 - sides[-1]) <= 4  # a square
    assert 22 <= min(sides) <= 28
    assert 58 <= max(sides) <= 67
    assert abs(np.mean(sides) - 44) <= 3


def test_scale_is_limited_by_the_shorter_side_and_refuses_what_is_below_its_low_end() -> None:
    pixels = crop(positions(24, 24), scale=(1.5, 9.0))
    assert pixels.shape == (16, 16, 3)
    assert corner(pixels) == (0, 0)
    with pytest.raises(BrokenImage, match="too small: got 90x23, need at least 24x24"):
        crop(positions(90, 23), scale=(1.5, 9.0))


def test_a_large_high_end_does_not_make_every_crop_the_whole_image() -> None:
    # Sides are uniform between 8 and 24 pixels; drawn up to 9 * 16 and then cut to 24, nine of ten would be 24.
    whole = sum(corner(crop(positions(24, 24), draw, scale=(0.5, 9.0))) == (0, 0) for draw in range(100))
    assert whole <= 20


def test_scale_one_does_not_resample() -> None:
    pixels = crop(positions(50, 40), 3, scale=(1.0, 1.0))
    left, top = corner(pixels)
    assert np.array_equal(pixels, np.asarray(positions(50, 40))[top : top + 16, left : left + 16])


def test_half_of_the_crops_are_mirrored() -> None:
    image = positions(16, 16)
    mirrored = 0
    for draw in range(400):
        pixels = crop(image, draw, flip=True)
        if pixels[0, 0, 0] == 15:
            assert np.array_equal(pixels, np.asarray(image)[:, ::-1])
            mirrored += 1
        else:
            assert np.array_equal(pixels, np.asarray(image))
    assert 160 <= mirrored <= 240


def gained(image: Image.Image, draw: int, *, gain: float = 0.5, **changes: Any) -> tuple[np.ndarray, np.ndarray]:
    """The crop of a draw with a colour gain, and what it is by hand: the crop without, then one factor a channel."""
    generator = numpy_generator(0, "crop", draw)
    plain = crop(image, generator=generator, flip=True, **changes)
    gains = generator.uniform(1 - gain, 1 + gain, size=plain.shape[2])
    expected = np.minimum(np.rint(plain * gains), 255)
    return crop(image, draw, flip=True, color_gain=gain, **changes), expected


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["center", "random"])
def test_color_gain_multiplies_each_channel_of_the_same_crop(kind: str, channels: int) -> None:
    for draw in range(8):
        pixels, expected = gained(positions(40, 30), draw, crop=kind, channels=channels)
        assert pixels.dtype == np.uint8
        assert np.array_equal(pixels, expected)


def test_color_gain_clips_what_is_brighter_than_white() -> None:
    white = Image.new("RGB", (16, 16), (255, 255, 255))
    values = np.array([gained(white, draw)[0][0, 0] for draw in range(40)])
    assert ((values == 255) | (values >= 127)).all()  # nothing wraps around to black
    assert 0.3 <= (values == 255).mean() <= 0.7  # half of the factors are above 1


def test_color_gain_is_uniform_and_independent_by_channel() -> None:
    grey = Image.new("RGB", (16, 16), (100, 100, 100))
    values = np.array([crop(grey, draw, color_gain=0.5)[0, 0] for draw in range(400)]).astype(float)
    assert 50 <= values.min() <= 53
    assert 147 <= values.max() <= 150
    assert np.abs(values.mean(0) - 100).max() <= 6  # 4 standard errors of a mean of 400 uniform values in 50..150
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() <= 0.2


def test_without_color_gain_nothing_is_drawn_for_it() -> None:
    generators = [numpy_generator(0, "crop", 0) for _ in range(2)]
    without = TrainingCrop(PixelFormat.picture(3))(positions(16, 16), (16, 16), generators[0])
    assert np.array_equal(without, np.asarray(positions(16, 16)))
    assert generators[0].random() == generators[1].random()


def test_the_same_draw_gives_the_same_crop() -> None:
    settings = {"scale": (0.5, 2.0), "flip": True}
    first, again = (crop(positions(60, 50), 5, **settings) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, crop(positions(60, 50), 6, **settings))


def test_transparency_is_gone_before_pixels_are_mixed() -> None:
    # Red lies hidden below full transparency: resizing straight RGBA would let it bleed in.
    hidden = np.zeros((128, 64, 4), np.uint8)
    hidden[:, :, 0] = 255
    hidden[0] = 255  # not all of it is transparent, but all of the square in its middle
    pixels = crop(Image.fromarray(hidden), crop="center", background=(10, 20, 30))
    assert np.array_equal(pixels, np.full((16, 16, 3), (10, 20, 30), np.uint8))


@pytest.mark.parametrize("kind", ["center", "random"])
def test_grey(kind: str) -> None:
    pixels = crop(Image.new("RGB", (64, 64), (255, 0, 0)), crop=kind, channels=1)
    assert np.array_equal(pixels, np.full((16, 16, 1), 76, np.uint8))


def test_an_unknown_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the crop center or random, got top"):
        crop(positions(16, 16), crop="top")


def test_evaluation_shows_the_whole_image_or_its_centre() -> None:
    image = positions(40, 16)
    whole = view(image, None)
    assert np.array_equal(whole, np.asarray(image))
    centre = view(image, 16)
    assert np.array_equal(centre, np.asarray(image)[:, 12:28])
    assert view(image, 32, 1).shape == (32, 32, 1)
    with pytest.raises(BrokenImage, match="too small"):
        view(image, 65)


def test_random_rectangles_are_exact_reach_every_place_and_need_both_sides() -> None:
    whole = np.asarray(positions(18, 10))
    seen = set()
    for draw in range(60):
        pixels = crop(positions(18, 10), draw, resolution=(9, 16))
        left, top = corner(pixels)
        assert np.array_equal(pixels, whole[top : top + 9, left : left + 16])
        seen.add((left, top))
    assert seen == {(left, top) for left in range(3) for top in range(2)}
    for width, height in ((15, 40), (40, 8)):
        with pytest.raises(BrokenImage, match=f"too small: got {width}x{height}, need at least 16x9"):
            crop(positions(width, height), resolution=(9, 16))


def test_a_scaled_rectangle_keeps_its_shape() -> None:
    for draw in range(40):
        pixels = crop(positions(200, 100), draw, resolution=(16, 32), scale=(1.5, 9.0)).astype(int)
        factors = (pixels[8, 28, 0] - pixels[8, 3, 0]) / 25, (pixels[12, 8, 1] - pixels[3, 8, 1]) / 9
        assert 1.4 <= factors[0] <= 6.3
        assert abs(factors[0] - factors[1]) <= 0.3


# ------------------------------------------------------------------------- all of an image: padded or distorted


@pytest.mark.parametrize(
    ("width", "height", "fit", "filter_name", "seen"),
    [
        (40, 20, "pad", "auto", (16, 32)),
        (30, 60, "pad", "auto", (16, 8)),
        (33, 16, "pad", "auto", (16, 32)),
        (16, 10, "pad", "auto", (16, 26)),
        (16, 10, "pad", "nearest", (10, 16)),
        (10, 5, "pad", "nearest", (15, 30)),
        (5, 5, "pad", "nearest", (15, 15)),
        (40, 40, "resize", "auto", (16, 32)),
        (2, 3, "resize", "nearest", (16, 32)),
    ],
)
def test_all_of_an_image_within_a_size(width: int, height: int, fit: Fit, filter_name: Filter, seen: Any) -> None:
    fitting = Fitting(fit, filter_name)
    whole = positions(width, height)
    found = crop(whole, crop="center", resolution=(16, 32), fitting=fitting)
    resample = {"nearest": Image.Resampling.NEAREST, "auto": Image.Resampling.LANCZOS}[filter_name]
    if filter_name == "auto" and width < seen[1]:
        resample = Image.Resampling.BICUBIC
    assert np.array_equal(found, np.asarray(whole.resize(seen[::-1], resample)))
    assert np.array_equal(view(whole, (16, 32), fitting=fitting), found)
    assert view(whole, None, fitting=fitting).shape == (height, width, 3)


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_nearest_enlarges_by_whole_pixels_without_limit(fit: Fit) -> None:
    sprite = noise_image(3, 8, 8)
    fitting = Fitting(fit, "nearest")
    expected = np.asarray(sprite).repeat(6, axis=0).repeat(6, axis=1)
    assert np.array_equal(view(sprite, 48, fitting=fitting), expected)
    values = np.asarray(sprite).astype(np.int32) * 10**7 + 1  # more than a float32 holds
    found = view(values, 48, numbers(3), fitting=fitting)
    assert found.dtype == np.int32
    assert np.array_equal(found, values.repeat(6, axis=0).repeat(6, axis=1))
    with pytest.raises(BrokenImage, match="too small: got 8x8, need 8 pixels a side and a quarter of 48x48"):
        view(sprite, 48, fitting=Fitting(fit))


@pytest.mark.parametrize("filter_name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_stated_filter_is_used_for_pictures_and_for_numbers(filter_name: Filter) -> None:
    picture = Image.fromarray(np.asarray(of_mode("RGB")) // 2 + 64)
    for size in ((16, 16), (80, 96)):
        found = view(picture, size, fitting=Fitting("resize", filter_name))
        resample = Image.Resampling[filter_name.upper()]
        assert np.array_equal(found, np.asarray(picture.resize(size[::-1], resample)))
        values = view(np.asarray(picture).astype(float), size, numbers(3), fitting=Fitting("resize", filter_name))
        assert_same_values(values, found)


def test_distorting_counts_both_sides_as_enlarged() -> None:
    with pytest.raises(BrokenImage, match="too small: got 40x9, need 8 pixels a side and a quarter of 40x40"):
        view(positions(40, 9), 40, fitting=Fitting("resize"))


# ------------------------------------------------------------------------------- the largest part of an aspect ratio


def part(image: Image.Image, seed: int = 0, *, size: tuple[int, int] = (8, 16), **changes: Any) -> np.ndarray:
    settings = {"crop": "center", "largest": True, "resolution": size} | changes
    return crop(image, generator=numpy_generator(seed, "test"), **settings)


def test_parts_by_hand() -> None:
    image = noise_image(0, 16, 12)
    pixels = np.asarray(image)
    assert np.array_equal(part(image), pixels[2:10])  # the full width, the centre of the height
    assert np.array_equal(part(image, size=(12, 6)), pixels[:, 5:11])
    assert part(image, channels=1).shape == (8, 16, 1)
    anywhere = {
        next(top for top in range(5) if np.array_equal(part(image, s, crop="random"), pixels[top : top + 8]))
        for s in range(60)
    }
    assert anywhere == {0, 1, 2, 3, 4}
    flipped = [np.array_equal(part(image, s, flip=True), pixels[2:10, ::-1]) for s in range(60)]
    assert 15 < sum(flipped) < 45
    small = part(noise_image(0, 64, 64), size=(16, 32))
    expected = noise_image(0, 64, 64).resize((32, 16), Image.Resampling.LANCZOS, box=(0, 16, 64, 48))
    assert np.array_equal(small, np.asarray(expected))


def test_color_gain_multiplies_each_channel_of_a_part() -> None:
    grey = Image.new("RGB", (16, 8), (100, 100, 100))
    levels = part(grey, color_gain=0.5)
    gains = numpy_generator(0, "test").uniform(0.5, 1.5, size=3)
    assert np.array_equal(levels, np.broadcast_to(np.rint(100 * gains).astype(np.uint8), (8, 16, 3)))


def test_an_image_too_small_for_a_part_is_a_bad_image() -> None:
    with pytest.raises(BrokenImage, match="too small: got 9x9, need 8 pixels a side and a quarter of 40x40"):
        part(noise_image(0, 9, 9), size=(40, 40))
    with pytest.raises(BrokenImage, match="too small: got 30x7"):
        part(noise_image(0, 30, 7))
    assert part(noise_image(0, 10, 10), size=(40, 40)).shape == (40, 40, 3)
    with pytest.raises(ValueError, match="center or random, got left"):
        part(noise_image(0), crop="left")
