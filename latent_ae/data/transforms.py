"""From an image of any kind and size to the pixels a model is trained or measured on: pure functions."""

import numpy as np
from PIL import Image

from latent_ae.io.image import BrokenImage, Color, Pixels, to_pil, to_uint8

_LARGEST_ENLARGEMENT = 4
_SMALLEST_SIDE_PIXELS = 8

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
    whole = to_pil(to_uint8(image, channels, background))
    centred = crop == "center"
    box = _centre_square(whole, resolution) if centred else _random_square(whole, resolution, scale, generator)
    pixels = _resized(whole, box, resolution)
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
    pixels = to_uint8(image, channels, background)
    if size is None:
        return pixels
    whole = to_pil(pixels)
    return _resized(whole, _centre_square(whole, size), size)


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


def _resized(image: Image.Image, box: Box, side: int) -> Pixels:
    """The square `box` of the image at `side` x `side`; untouched if it has that size already."""
    box_side = box[2] - box[0]
    if box_side == side:
        part = image.crop(box)
    else:
        # Lanczos keeps most detail when pixels are averaged; when they are invented its ringing would be learnt.
        resample = Image.Resampling.LANCZOS if box_side > side else Image.Resampling.BICUBIC
        part = image.resize((side, side), resample, box=box)
    pixels = np.array(part)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
