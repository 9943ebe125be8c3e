"""An image of any kind and size to the values of a training sample or an evaluation: pure functions.

A picture is a PIL image or a file that is not decoded yet, numbers are an array [H, W, C] in the data's own values:
`PixelFormat` says which of them a run reads, and with which channels. `cutting` makes values of the part that is seen.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from latent_ae.config.section import SMALLEST_SIDE_PIXELS, Size
from latent_ae.data.cutting import Picture, cut, cuttable, extent, whole_image
from latent_ae.io.image import WHITE, BrokenImage, Color
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.undecoded import Box

_LARGEST_ENLARGEMENT = 4


def size_text(size: Size) -> str:
    """A size as data.resolution gives it: the side of a square, or HxW."""
    return "x".join(map(str, dict.fromkeys(size)))


Fit = Literal["crop", "pad", "resize"]
Filter = Literal["auto", "nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Fitting:
    """How an image comes to a size: a part of its aspect ratio, all of it within the size, or all of it, distorted."""

    fit: Fit = "crop"
    filter: Filter = "auto"
    """"auto" is Lanczos where pixels are averaged, which keeps most detail, and bicubic where they are invented, as
    Lanczos' ringing would be learnt; "nearest" repeats or leaves out whole pixels"""

    def place(self, image: Picture | Array, size: Size, generator: np.random.Generator | None) -> tuple[Box, Size]:
        """The part of an image that is seen, and its size (H, W) then: `size`, or within it with fit "pad".

        A part is centred along the side that is cut, or placed by `generator`. Raises BrokenImage for an image that is
        too small: that would be enlarged more than 4 times, which would teach and measure blur, or whose shorter side
        is below 8 pixels. Nearest pixels blur nothing and have no such limit.
        """
        width, height = extent(image)
        box = _largest_part((height, width), size, generator) if self.fit == "crop" else (0, 0, width, height)
        seen = self._within((height, width), size) if self.fit == "pad" else size
        small = (box[2] - box[0]) * _LARGEST_ENLARGEMENT < seen[1] or min(width, height) < SMALLEST_SIDE_PIXELS
        small |= self.fit == "resize" and height * _LARGEST_ENLARGEMENT < seen[0]
        if small and self.filter != "nearest":
            raise BrokenImage(
                f"too small: got {width}x{height}, need 8 pixels a side and a quarter of {seen[1]}x{seen[0]}"
            )
        return box, seen

    def _within(self, whole: Size, size: Size) -> Size:
        """The largest size of the aspect ratio of `whole` within `size`; whole numbers of nearest pixels."""
        factor = min(size[0] / whole[0], size[1] / whole[1])
        if self.filter == "nearest" and factor > 1:
            factor = math.floor(factor)
        height, width = (min(most, max(1, round(side * factor))) for side, most in zip(whole, size, strict=True))
        return height, width

    def resampling(self, old_width: int, width: int) -> Image.Resampling:
        """The filter that brings a part of `old_width` pixels to `width`."""
        name = self.filter if self.filter != "auto" else "lanczos" if old_width > width else "bicubic"
        return Image.Resampling[name.upper()]


BY_CROP = Fitting()


@dataclass(frozen=True)
class TrainingCrop:
    """Cuts, resizes, mirrors and colours a training crop.

    `crop` "center" takes an image as `fitting` says, by default its largest centred part of the target aspect ratio,
    resized; "random" a part from anywhere in it, at its own size or resized by `scale`; "random" with `largest` the
    largest part, from anywhere along the side that is cut, resized.
    """

    pixel_format: PixelFormat
    crop: str = "center"
    scale: tuple[float, float] | None = None
    """(low, high): the part has the target's sides times U(low, high), at most what fits, and is resized"""
    largest: bool = False
    fitting: Fitting = BY_CROP
    flip: bool = False
    """mirror half of the crops left to right"""
    color_gain: float = 0.0
    """g: the levels of each colour channel are multiplied by U(1 - g, 1 + g); for pictures alone"""
    background: Color = WHITE

    def __post_init__(self) -> None:
        if self.crop not in ("center", "random"):
            raise ValueError(f"expected the crop center or random, got {self.crop}")
        if self.color_gain and self.pixel_format.numbers:
            raise ValueError("color_gain multiplies the levels of pictures, and the images are read as numbers")

    def __call__(self, image: Picture | Array, size: Size, generator: np.random.Generator) -> Array:
        """An image -> [H, W, C] of `size` (H, W), or within it if it is to be padded.

        `generator` is the only source of randomness. The values are those of `pixel_format`: uint8 levels of a picture;
        numbers in their type, or float32 where they are resized. Raises BrokenImage for what is no such image and if it
        is too small: see `Fitting.place` and `_random_part`.
        """
        image = cuttable(image, self.pixel_format, self.background)
        if self.crop == "center" or self.largest:
            box, size = self.fitting.place(image, size, generator if self.crop == "random" else None)
        else:
            box = _random_part(image, size, self.scale, generator)
        resample = self.fitting.resampling(box[2] - box[0], size[1])
        values = cut(image, box, size, pixel_format=self.pixel_format, resample=resample, background=self.background)
        if self.flip and generator.random() < 0.5:
            values = values[:, ::-1].copy()
        return self._with_gains(values, generator) if self.color_gain else values

    def _with_gains(self, levels: Array, generator: np.random.Generator) -> Array:
        """The levels of a picture with each colour channel multiplied; alpha stays."""
        alpha = self.pixel_format.alpha
        colors = self.pixel_format.channels - (alpha != "none")
        gains = generator.uniform(1 - self.color_gain, 1 + self.color_gain, size=colors)
        tables = np.rint(np.arange(256) * gains[:, None]).clip(0, 255).astype(np.uint8)
        gained = np.stack([tables[color][levels[:, :, color]] for color in range(colors)], axis=2)
        if alpha == "premultiplied":
            gained = np.minimum(gained, levels[:, :, colors:])
        return np.concatenate([gained, levels[:, :, colors:]], axis=2)


def evaluation_view(
    image: Picture | Array,
    *,
    pixel_format: PixelFormat,
    size: int | Size | None,
    background: Color,
    fitting: Fitting = BY_CROP,
) -> Array:
    """An image whole (size None), or brought to `size`, (H, W) or the side of a square -> [H, W, C].

    With the fit "pad" it is smaller: nothing is padded. The values are those of a `TrainingCrop`. Raises BrokenImage
    for what is no image of `pixel_format` and if it is too small for `size`: see `Fitting.place`.
    """
    if size is None:
        return whole_image(image, pixel_format, background)
    size = (size, size) if isinstance(size, int) else size
    image = cuttable(image, pixel_format, background)
    box, size = fitting.place(image, size, None)
    resample = fitting.resampling(box[2] - box[0], size[1])
    return cut(image, box, size, pixel_format=pixel_format, resample=resample, background=background)


def _largest_part(whole: Size, size: Size, generator: np.random.Generator | None) -> Box:
    """The largest part of a size (H, W) with the aspect ratio of another, centred or placed by `generator`."""
    (whole_height, whole_width), (height, width) = whole, size
    part_width = min(whole_width, max(1, round(whole_height * width / height)))
    part_height = min(whole_height, max(1, round(whole_width * height / width)))
    room_x, room_y = whole_width - part_width, whole_height - part_height
    left, top = room_x // 2, room_y // 2
    if generator is not None:
        left, top = (int(generator.integers(room, endpoint=True)) for room in (room_x, room_y))
    return left, top, left + part_width, top + part_height


def _random_part(
    image: Picture | Array, size: Size, scale: tuple[float, float] | None, generator: np.random.Generator
) -> Box:
    """A part of `size` times a factor in whole pixels, every position as likely as any other."""
    (width, height), (low, high) = extent(image), scale or (1.0, 1.0)
    if width < size[1] * low or height < size[0] * low:
        raise BrokenImage(
            f"too small: got {width}x{height}, need at least {math.ceil(size[1] * low)}x{math.ceil(size[0] * low)}"
        )
    factor = generator.uniform(low, min(high, width / size[1], height / size[0]))
    part_height, part_width = (
        min(whole, max(1, round(side * factor))) for whole, side in zip((height, width), size, strict=True)
    )
    left = int(generator.integers(width - part_width, endpoint=True))
    top = int(generator.integers(height - part_height, endpoint=True))
    return left, top, left + part_width, top + part_height
