"""From an image of any kind and size to the pixels a model is trained or measured on: pure functions.

    image -> box -> part of the image -> uint8 levels, grey or RGB        a box that keeps its size
    image -> grey or RGB -> box, resampled -> uint8 levels                a box that is resized

A box is cut out before its colours are converted, which gives the same levels for a fraction of the work. Two steps
stay in the other order: resampling mixes levels, so it comes after every conversion; and images with transparency or
more than 8 bits are converted whole, since what makes them unusable is a property of the whole image.
"""

import numpy as np
from PIL import Image

from latent_ae.io.image import BrokenImage, Color, Pixels, to_pil, to_uint8
from latent_ae.io.image_file.opening import upright

_LARGEST_ENLARGEMENT = 4
_SMALLEST_SIDE_PIXELS = 8

_BY_PIXEL = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
"""modes that `to_uint8` converts pixel by pixel, and refuses for no value"""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels"""


def training_crop(
    image: Image.Image,
    *,
    channels: int,
    resolution: int,
    crop: str,
    scale: tuple[float, float] | None,
    flip: bool,
    color_gain: float = 0.0,
    background: Color,
    generator: np.random.Generator,
) -> Pixels:
    """An image -> [resolution, resolution, channels] uint8, all chance taken from `generator`.

    crop "center": the largest centred square, resized. crop "random": a square from anywhere in the image, as it is,
    or with `scale` (low, high) of resolution * U(low, high) pixels, at most the image's shorter side, resized. `flip`
    mirrors half of the crops left to right. `color_gain` g multiplies the levels of each channel by U(1 - g, 1 + g).
    Raises BrokenImage if the image is too small: see `_centre_square` and `_random_square`.
    """
    if crop not in ("center", "random"):
        raise ValueError(f"expected the crop center or random, got {crop}")
    image = eight_bit(image, channels, background)
    centred = crop == "center"
    box = _centre_square(image, resolution) if centred else _random_square(image, resolution, scale, generator)
    pixels = cut(image, box, (resolution, resolution), channels)
    return augmented(pixels, flip=flip, color_gain=color_gain, generator=generator)


def augmented(pixels: Pixels, *, flip: bool, color_gain: float, generator: np.random.Generator) -> Pixels:
    """Pixels [H, W, C] mirrored or not, and with levels multiplied by a gain for each channel; as `training_crop`."""
    if flip and generator.random() < 0.5:
        pixels = pixels[:, ::-1].copy()
    if color_gain:
        gains = generator.uniform(1 - color_gain, 1 + color_gain, size=pixels.shape[2])
        pixels = np.rint(pixels * gains).clip(0, 255).astype(np.uint8)
    return pixels


def evaluation_view(image: Image.Image, *, channels: int, size: int | None, background: Color) -> Pixels:
    """An image -> [H, W, channels] uint8: whole (size None), or its largest centred square resized to `size`.

    Raises BrokenImage if the image is too small for `size`: see `_centre_square`.
    """
    if size is None:
        return to_uint8(image, channels, background)
    image = eight_bit(image, channels, background)
    return cut(image, _centre_square(image, size), (size, size), channels)


def eight_bit(image: Image.Image, channels: int, background: Color) -> Image.Image:
    """The upright image, itself if `to_uint8` would convert each of its pixels alone, else converted by it.

    Raises BrokenImage.
    """
    image = upright(image)
    if image.mode in _BY_PIXEL and not image.has_transparency_data:
        return image
    return to_pil(to_uint8(image, channels, background))


def cut(image: Image.Image, box: Box, size: tuple[int, int], channels: int) -> Pixels:
    """The part `box` of an image of `eight_bit` at `size` (H, W) -> [H, W, channels] uint8."""
    height, width = size
    box_width, box_height = box[2] - box[0], box[3] - box[1]
    if (box_width, box_height) == (width, height):
        return to_uint8(image.crop(box), channels)
    if image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if channels == 1 and image.mode != "L":
        image = image.convert("L")
    # Lanczos keeps most detail when pixels are averaged; when they are invented its ringing would be learnt.
    resample = Image.Resampling.LANCZOS if box_width > width else Image.Resampling.BICUBIC
    return to_uint8(image.resize((width, height), resample, box=box), channels)


def _centre_square(image: Image.Image, side: int) -> Box:
    """The largest centred square. An image is too small if it would be enlarged more than 4 times (that would teach
    and measure blur) or if its shorter side is below 8 pixels.
    """
    shorter = min(image.size)
    needed = max(_SMALLEST_SIDE_PIXELS, -(-side // _LARGEST_ENLARGEMENT))
    if shorter < needed:
        raise BrokenImage(
            f"too small: got {image.width}x{image.height}, need at least {needed} pixels a side for {side}x{side}"
        )
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    return left, top, left + shorter, top + shorter


def _random_square(
    image: Image.Image, resolution: int, scale: tuple[float, float] | None, generator: np.random.Generator
) -> Box:
    """A square of whole pixels, every position as likely as any other."""
    shorter = min(image.size)
    low, high = scale or (1.0, 1.0)
    if shorter < resolution * low:
        raise BrokenImage(
            f"too small: got {image.width}x{image.height}, need at least {int(np.ceil(resolution * low))} pixels a side"
        )
    side = min(shorter, max(1, round(resolution * generator.uniform(low, min(high, shorter / resolution)))))
    left = int(generator.integers(image.width - side, endpoint=True))
    top = int(generator.integers(image.height - side, endpoint=True))
    return left, top, left + side, top + side
