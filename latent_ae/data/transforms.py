"""An image of any kind and size to the values of a training sample or an evaluation: pure functions.

    picture -> box -> its channels -> uint8 levels                     a box that keeps its size
    picture -> box -> its channels -> resampled -> uint8 levels        a box that is resized
    numbers -> box -> its channels, in the type of the numbers         a box that keeps its size
    numbers -> box -> its channels -> resampled -> float32             a box that is resized

A picture is a PIL image or a file that is not decoded yet, numbers are an array [H, W, C] in the data's own values:
`PixelFormat` says which of them a run reads, and with which channels.

A box is cut out before it is decoded, where its file allows that, turned, and its colours are converted, which gives
the same levels for a fraction of the work. Of a box that is resized, the part comes with the pixels around it that the
filter reaches. Images whose transparency is not a channel, and 32-bit integers and floats, are converted whole, since
what makes them unusable is a property of the whole image.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from latent_ae.config.section import SMALLEST_SIDE_PIXELS, Size
from latent_ae.io.image import WHITE, BrokenImage, Color, require_visible, to_pil, to_uint8
from latent_ae.io.image_file.opening import upright
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.undecoded import Box, UndecodedImage

_LARGEST_ENLARGEMENT = 4

_BY_PIXEL = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I;16B", "I;16L", "I;16N")
"""modes that are converted pixel by pixel, and refused for no value"""
_TRANSPARENT = ("LA", "RGBA")
"""the same, refused only if they are transparent everywhere"""
_WITH_ALPHA = {2: "LA", 4: "RGBA"}

_LANCZOS_SUPPORT = 3
"""pixels of the coarser side that a resampled value depends on in each direction, at most"""


def size_text(size: Size) -> str:
    """A size as data.resolution gives it: the side of a square, or HxW."""
    return "x".join(map(str, dict.fromkeys(size)))


Picture = Image.Image | UndecodedImage
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
        width, height = _extent(image)
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
        image = _cuttable(image, self.pixel_format, self.background)
        if self.crop == "center" or self.largest:
            box, size = self.fitting.place(image, size, generator if self.crop == "random" else None)
        else:
            box = _random_part(image, size, self.scale, generator)
        values = _cut(image, box, size, self.pixel_format, self.fitting, background=self.background)
        if self.flip and generator.random() < 0.5:
            values = values[:, ::-1].copy()
        return self._with_gains(values, generator) if self.color_gain else values

    def _with_gains(self, levels: Array, generator: np.random.Generator) -> Array:
        """The levels of a picture with each colour channel multiplied; alpha stays."""
        alpha = self.pixel_format.alpha
        colors = self.pixel_format.channels - (alpha != "none")
        gains = generator.uniform(1 - self.color_gain, 1 + self.color_gain, size=colors)
        highest = levels[:, :, colors:] if alpha == "premultiplied" else 255
        gained = np.rint(levels[:, :, :colors] * gains).clip(0, highest).astype(np.uint8)
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
        image = _part(image, (0, 0, *image.size)) if isinstance(image, UndecodedImage) else image
        return pixel_format.array(image, background)
    size = (size, size) if isinstance(size, int) else size
    image = _cuttable(image, pixel_format, background)
    return _cut(image, *fitting.place(image, size, None), pixel_format, fitting, background=background)


def _cuttable(image: Picture | Array, pixel_format: PixelFormat, background: Color) -> Picture | Array:
    """Numbers as they are; a picture upright, itself if each of its pixels is converted alone, else converted.

    Raises BrokenImage.
    """
    if not isinstance(image, Image.Image):
        return image
    image = upright(image)
    if image.mode in _TRANSPARENT and pixel_format.alpha == "none":
        require_visible(image)
    alone = image.mode in _TRANSPARENT or (image.mode in _BY_PIXEL and not image.has_transparency_data)
    return image if alone else to_pil(to_uint8(image, pixel_format.channels, background))  # not yet premultiplied


def _cut(
    image: Picture | Array, box: Box, size: Size, pixel_format: PixelFormat, fitting: Fitting, *, background: Color
) -> Array:
    """The part `box` of an image of `_cuttable` at `size` (H, W) -> [H, W, C]."""
    height, width = size
    left, top, right, bottom = box
    whole = (bottom - top, right - left) == size
    resample = fitting.resampling(right - left, width)
    if not isinstance(image, Image.Image | UndecodedImage):
        part = image[top:bottom, left:right]
        return pixel_format.array(part) if whole else _resized(image, box, size, pixel_format, resample)
    if whole:
        return pixel_format.array(_part(image, box).crop((0, 0, width, height)), background, whole=False)
    canvas = _canvas(image, _reach(box, size, image.size), pixel_format, background)
    # PIL multiplies by alpha before it mixes pixels: hidden colours do not bleed.
    return pixel_format.array(canvas.resize((width, height), resample, box=box))


def _canvas(image: Picture, reach: Box, pixel_format: PixelFormat, background: Color) -> Image.Image:
    """A picture with the part `reach` of an image at its place, which decides the last bits of PIL's weights; what lies
    elsewhere is not filled.
    """
    if isinstance(image, Image.Image) and _mixes(image, pixel_format):
        return image
    left, top, right, bottom = reach
    if 2 * (right - left) * (bottom - top) > right * bottom:  # to copy it to its place would take longer
        left, top = 0, 0
    part = _part(image, (left, top, right, bottom))
    if not _mixes(part, pixel_format):
        part = _mixable(part, pixel_format, background)
    if (left, top) == (0, 0):
        return part
    canvas = Image.new(part.mode, (right, bottom), None)
    canvas.paste(part, (left, top))
    return canvas


def _mixes(image: Image.Image, pixel_format: PixelFormat) -> bool:
    """Whether the levels of a picture may be averaged: it is grey, RGB, or has the alpha that the format has."""
    if pixel_format.alpha != "none":
        return image.mode == _WITH_ALPHA[pixel_format.channels]
    return image.mode == "L" or (image.mode == "RGB" and pixel_format.channels == 3)


def _mixable(part: Image.Image, pixel_format: PixelFormat, background: Color) -> Image.Image:
    """A part of a picture as one whose levels may be averaged."""
    if pixel_format.alpha != "none" or part.mode in _TRANSPARENT or part.mode.startswith("I;16"):
        return to_pil(to_uint8(part, pixel_format.channels, background, whole=False))
    if part.mode != "RGB":  # PIL makes grey of RGB alone as `to_uint8` does
        part = part.convert("L" if part.mode == "1" else "RGB")
    return part.convert("L") if pixel_format.channels == 1 and part.mode == "RGB" else part


def _part(image: Picture, box: Box) -> Image.Image:
    """`box` of an image, or more to the right and below."""
    if isinstance(image, UndecodedImage):
        return image.part(box)
    in_place = box[:2] == (0, 0) and 2 * box[2] * box[3] > image.width * image.height  # not worth a copy
    return image if in_place else image.crop(box)


def _reach(box: Box, size: Size, extent: tuple[int, int]) -> Box:
    """All pixels of an image of width and height `extent` that a filter reaches which brings `box` to `size`."""
    (left, top, right, bottom), (height, width) = box, size
    x, y = (
        math.ceil(_LANCZOS_SUPPORT * max(1.0, old / new)) + 1
        for old, new in ((right - left, width), (bottom - top, height))
    )
    return max(0, left - x), max(0, top - y), min(extent[0], right + x), min(extent[1], bottom + y)


def _resized(numbers: Array, box: Box, size: Size, pixel_format: PixelFormat, resample: Image.Resampling) -> Array:
    """The part `box` of numbers [H, W, C] at `size` (H, W), each channel as PIL resizes floats -> float32; nearest
    numbers keep their type.
    """
    left, top, right, bottom = box
    if resample == Image.Resampling.NEAREST:
        rows, columns = (
            low + ((np.arange(new) + 0.5) * ((high - low) / new)).astype(np.int64)
            for low, high, new in ((top, bottom, size[0]), (left, right, size[1]))
        )
        return pixel_format.array(numbers[rows[:, None], columns])
    x, y, end_x, end_y = _reach(box, size, _extent(numbers))
    part = pixel_format.array(numbers[y:end_y, x:end_x])
    inside = (left - x, top - y, right - x, bottom - y)
    planes = (Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in part.transpose(2, 0, 1))
    return np.stack([np.asarray(plane.resize(size[::-1], resample, box=inside)) for plane in planes], axis=2)


def _extent(image: Picture | Array) -> tuple[int, int]:
    """Width and height."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


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
    (width, height), (low, high) = _extent(image), scale or (1.0, 1.0)
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
