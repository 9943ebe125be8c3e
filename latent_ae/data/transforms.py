"""An image of any mode and size to the pixels of a training sample or an evaluation: pure functions.

    image -> box -> part of the image -> uint8 levels, grey or RGB        a box that keeps its size
    image -> grey or RGB -> box, resampled -> uint8 levels                a box that is resized

A box is cut out before its colours are converted, which gives the same levels for a fraction of the work. Two steps
stay in the other order: resampling mixes levels, so it comes after every conversion; and images with transparency or
more than 8 bits are converted whole, since what makes them unusable is a property of the whole image.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from latent_ae.io.image import WHITE, BrokenImage, Color, Pixels, to_pil, to_uint8
from latent_ae.io.image_file.opening import upright

_LARGEST_ENLARGEMENT = 4
_SMALLEST_SIDE_PIXELS = 8

_BY_PIXEL = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
"""modes that `to_uint8` converts pixel by pixel, and refuses for no value"""

Size = tuple[int, int]
"""height, width in pixels"""
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels"""


@dataclass(frozen=True)
class TrainingCrop:
    """Cuts, resizes, mirrors and colours a training crop.

    `crop` "center" takes the largest centred part of the target aspect ratio, resized; "random" a square from anywhere
    in the image, at its own size or resized by `scale`; "random" with `largest` the largest part of the target aspect
    ratio, from anywhere along the side that is cut, resized.
    """

    channels: int
    crop: str = "center"
    scale: tuple[float, float] | None = None
    """(low, high): the square has side * U(low, high) pixels, at most the image's shorter side, and is resized"""
    largest: bool = False
    flip: bool = False
    """mirror half of the crops left to right"""
    color_gain: float = 0.0
    """g: the levels of each channel are multiplied by U(1 - g, 1 + g)"""
    background: Color = WHITE

    def __post_init__(self) -> None:
        if self.crop not in ("center", "random"):
            raise ValueError(f"expected the crop center or random, got {self.crop}")

    def __call__(self, image: Image.Image, size: Size, generator: np.random.Generator) -> Pixels:
        """An image -> [H, W, channels] uint8 of `size` (H, W); `generator` is the only source of randomness.

        Raises BrokenImage if the image is too small: see `_largest_part` and `_random_square`.
        """
        image = _eight_bit(image, self.channels, self.background)
        if self.crop == "center" or self.largest:
            box = _largest_part(image, size, generator if self.crop == "random" else None)
        else:
            box = _random_square(image, size[0], self.scale, generator)
        pixels = _cut(image, box, size, self.channels)
        if self.flip and generator.random() < 0.5:
            pixels = pixels[:, ::-1].copy()
        if self.color_gain:
            gains = generator.uniform(1 - self.color_gain, 1 + self.color_gain, size=pixels.shape[2])
            pixels = np.rint(pixels * gains).clip(0, 255).astype(np.uint8)
        return pixels


def evaluation_view(image: Image.Image, *, channels: int, size: int | None, background: Color) -> Pixels:
    """An image -> [H, W, channels] uint8: whole (size None), or its largest centred square resized to `size`.

    Raises BrokenImage if the image is too small for `size`: see `_largest_part`.
    """
    if size is None:
        return to_uint8(image, channels, background)
    image = _eight_bit(image, channels, background)
    return _cut(image, _largest_part(image, (size, size), None), (size, size), channels)


def _eight_bit(image: Image.Image, channels: int, background: Color) -> Image.Image:
    """The upright image, itself if `to_uint8` would convert each of its pixels alone, else converted by it.

    Raises BrokenImage.
    """
    image = upright(image)
    if image.mode in _BY_PIXEL and not image.has_transparency_data:
        return image
    return to_pil(to_uint8(image, channels, background))


def _cut(image: Image.Image, box: Box, size: Size, channels: int) -> Pixels:
    """The part `box` of an image of `_eight_bit` at `size` (H, W) -> [H, W, channels] uint8."""
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


def _largest_part(image: Image.Image, size: Size, generator: np.random.Generator | None) -> Box:
    """The largest part with the aspect ratio of `size`, centred along the side that is cut, or placed by `generator`.

    An image is too small if it would be enlarged more than 4 times (that would teach and measure blur) or if its
    shorter side is below 8 pixels.
    """
    height, width = size
    part_width = min(image.width, max(1, round(image.height * width / height)))
    part_height = min(image.height, max(1, round(image.width * height / width)))
    if part_width * _LARGEST_ENLARGEMENT < width or min(image.size) < _SMALLEST_SIDE_PIXELS:
        raise BrokenImage(
            f"too small: got {image.width}x{image.height}, need 8 pixels a side and a quarter of {width}x{height}"
        )
    room_x, room_y = image.width - part_width, image.height - part_height
    left, top = room_x // 2, room_y // 2
    if generator is not None:
        left, top = (int(generator.integers(room, endpoint=True)) for room in (room_x, room_y))
    return left, top, left + part_width, top + part_height


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
