"""An image file as a model takes it: its pixels, and what was changed or left out on the way."""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps

from latent_ae.errors import BrokenImage
from latent_ae.inference.memory import DoesNotFit, available_bytes
from latent_ae.io.image import ColorRule, open_image, remarks
from latent_ae.io.image_file.damage import Mended, mended
from latent_ae.io.image_file.opening import frame_count
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.rasters import raster_pages, raster_shape, read_raster

_BYTES_PER_PIXEL = 20
"""of a decoded RGB image: PIL's 4, an array's 3, and 12 of float32"""
_BYTES_PER_NUMBER = 28
"""of a value: 8 as the file has it, 8 twice while it is brought into the range, and 4 of float32"""


@dataclass(frozen=True)
class ReadingRule:
    """How image files are read."""

    color: ColorRule = "convert"
    accept_damaged: bool = False
    """whether files whose damage leaves the pixels whole are read"""
    axis: int | None = None
    """of a volume of numbers, that its slices are counted along; None for the format's own"""

    def record(self, pixels: PixelFormat) -> dict[str, str]:
        """What decides the values that are read, as it is written down."""
        if pixels.numbers:
            return {} if self.axis is None else {"axis": str(self.axis)}
        return {"color": self.color}


PLAIN = ReadingRule()
"""colours to sRGB, no damage"""


@dataclass(frozen=True)
class ReadImage:
    """An image as a model takes it."""

    array: Array
    """[H,W,C] in the units of the model's pixel format"""
    remarks: tuple[str, ...]
    """what a person should know about how it was read, each to follow on the file's name"""
    profile: bytes | None = None
    """ICC profile of a picture's colours; None for sRGB"""
    damage: str = ""
    """what was passed over; '' if nothing"""


def read_image(file: BinaryIO, pixels: PixelFormat, rule: ReadingRule = PLAIN, *, page: int | None = None) -> ReadImage:
    """The image in an open file, as a picture or as numbers, as the pixel format says.

    `page` of a file of numbers is counted from 0; None is the first, with a remark if there are others. Raises
    BrokenImage for an image that cannot be used, DoesNotFit before one is decoded that the memory cannot hold.
    """
    if pixels.numbers:
        return read_numbers(file, pixels, axis=rule.axis, page=page)
    return _read_picture(file, pixels, rule)


def page_count(path: Path, rule: ReadingRule) -> int:
    """How many images a file of numbers holds; 1 if that cannot be read, which will be found out."""
    with suppress(BrokenImage):
        return raster_pages(path, axis=rule.axis)
    return 1


def read_numbers(
    file: BinaryIO, pixels: PixelFormat, *, axis: int | None = None, page: int | None = None, limited: bool = False
) -> ReadImage:
    """`read_image` of numbers; `limited` is for strangers' files, as in `read_raster`."""
    height, width, channels = raster_shape(file, page=page or 0, axis=axis, limited=limited)
    if channels != pixels.channels and not pixels.bands:
        raise BrokenImage(
            f"it has {channels} channel{'s'[: channels > 1]}, the model takes images of {pixels.describe()}"
        )
    _require_room(height, width, _BYTES_PER_NUMBER * channels)
    values, unit, said = read_raster(file, page=page or 0, axis=axis, limited=limited)
    if page is not None and raster_pages(file, axis=axis, limited=limited) > 1:
        said = said[:-1]  # that there are other pages
    array = pixels.array(values)
    if pixels.clips(array):
        said += (f"has values outside of the model's range, {pixels.describe_ranges()}, which were clipped",)
    if values.dtype.kind in "iu" and np.iinfo(values.dtype).max < max(high for _, high in pixels.ranges):
        said += (f"holds {values.dtype}, which cannot reach the model's range, {pixels.describe_ranges()}",)
    if unit and pixels.unit and unit != pixels.unit:
        said += (f"states its values in {unit}, the model's are in {pixels.unit}",)
    return ReadImage(array, said)


def _read_picture(file: BinaryIO, pixels: PixelFormat, rule: ReadingRule) -> ReadImage:
    frames = 1

    def check(header: Image.Image) -> None:
        nonlocal frames
        frames = frame_count(header)
        _require_room(header.height, header.width, _BYTES_PER_PIXEL)

    damaged: Mended | None = None
    try:
        image = open_image(file, check=check, colors=rule.color)
    except BrokenImage as error:
        file.seek(0)
        damaged = mended(file.read())
        if damaged is None:
            raise
        image = _without_damage(damaged, error, rule, check)
    said = list(remarks(image))
    if frames > 1:
        said.insert(0, f"had {frames} frames or pages, of which the first was used")
    if damaged is not None:
        said.insert(0, f"had damage beside the pixels, which was passed over: {damaged.damage}")
    damage = "" if damaged is None else damaged.damage
    return ReadImage(pixels.array(image), tuple(said), image.info.get("icc_profile"), damage)


def _require_room(height: int, width: int, pixel_bytes: int) -> None:
    needed = pixel_bytes * width * height
    if needed > (available := available_bytes(torch.device("cpu"))):
        advice = f"{available / pixel_bytes / 1e6:.1f} million pixels would fit"
        raise DoesNotFit(f"an image of {width}x{height} pixels", needed, available, advice)


def _without_damage(
    damaged: Mended, error: BrokenImage, rule: ReadingRule, check: Callable[[Image.Image], None]
) -> Image.Image:
    try:
        image = open_image(io.BytesIO(damaged.data), check=check, colors=rule.color)
    except BrokenImage:
        raise error from None
    if not rule.accept_damaged:
        raise BrokenImage(
            f"it is damaged ({damaged.damage}), but its pixels are whole: --accept-damaged takes it"
        ) from None
    return image


def fitted(image: Array, height: int, width: int) -> Array:
    """Scaled to cover height x width, and cropped to its centre; numbers in float32."""
    if image.shape[:2] == (height, width):
        return image
    kind = np.uint8 if image.dtype == np.uint8 else np.float32
    scaled = [
        ImageOps.fit(Image.fromarray(channel.astype(kind)), (width, height), Image.Resampling.LANCZOS)
        for channel in np.moveaxis(image, 2, 0)
    ]
    return np.stack([np.asarray(channel) for channel in scaled], axis=2)
