"""The part of an image that is seen, cut out, converted and resized: pure functions.

    picture -> box -> its channels -> uint8 levels                     a box that keeps its size
    picture -> box -> its channels -> resampled -> uint8 levels        a box that is resized
    numbers -> box -> its channels, in the type of the numbers         a box that keeps its size
    numbers -> box -> its channels -> resampled -> float32             a box that is resized

A box is cut out before it is decoded, where its file allows that, turned, and its colours are converted, which gives
the same levels for a fraction of the work. Of a box that is resized, the part comes with the pixels around it that the
filter reaches. Images whose transparency is not a channel, and 32-bit integers and floats, are converted whole, since
what makes them unusable is a property of the whole image.
"""

import math

import numpy as np
from PIL import Image

from latent_ae.config.section import Size
from latent_ae.io.image import Color, require_visible, to_pil, to_uint8
from latent_ae.io.image_file.opening import upright
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.undecoded import Box, UndecodedImage

Picture = Image.Image | UndecodedImage

_BY_PIXEL = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I;16B", "I;16L", "I;16N")
"""modes that are converted pixel by pixel, and refused for no value"""
_TRANSPARENT = ("LA", "RGBA")
"""the same, refused only if they are transparent everywhere"""
_WITH_ALPHA = {2: "LA", 4: "RGBA"}

_LANCZOS_SUPPORT = 3
"""pixels of the coarser side that a resampled value depends on in each direction, at most"""


def cuttable(image: Picture | Array, pixel_format: PixelFormat, background: Color) -> Picture | Array:
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


def cut(
    image: Picture | Array,
    box: Box,
    size: Size,
    *,
    pixel_format: PixelFormat,
    resample: Image.Resampling,
    background: Color,
) -> Array:
    """The part `box` of an image of `cuttable` at `size` (H, W) -> [H, W, C]. Raises BrokenImage."""
    height, width = size
    left, top, right, bottom = box
    own_size = (bottom - top, right - left) == size
    if not isinstance(image, Image.Image | UndecodedImage):
        part = image[top:bottom, left:right]
        return pixel_format.array(part) if own_size else _resized(image, box, size, pixel_format, resample)
    if own_size:
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
    x, y, end_x, end_y = _reach(box, size, extent(numbers))
    part = pixel_format.array(numbers[y:end_y, x:end_x])
    inside = (left - x, top - y, right - x, bottom - y)
    planes = (Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in part.transpose(2, 0, 1))
    return np.stack([np.asarray(plane.resize(size[::-1], resample, box=inside)) for plane in planes], axis=2)


def extent(image: Picture | Array) -> tuple[int, int]:
    """Width and height."""
    return (image.shape[1], image.shape[0]) if isinstance(image, np.ndarray) else image.size


def whole_image(image: Picture | Array, pixel_format: PixelFormat, background: Color) -> Array:
    """All of an image -> [H, W, C]. Raises BrokenImage."""
    decoded = _part(image, (0, 0, *image.size)) if isinstance(image, UndecodedImage) else image
    return pixel_format.array(decoded, background)
