"""An image file as a task reads it: its pixels, and what was changed or left out on the way."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import torch
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.inference.memory import DoesNotFit, available_bytes
from latent_ae.io.image import ColorRule, Pixels, open_image, remarks, to_uint8
from latent_ae.io.image_file.damage import Mended, mended
from latent_ae.io.image_file.opening import frame_count

_BYTES_PER_PIXEL = 20
"""of a decoded RGB image: PIL's 4, an array's 3, and 12 of float32"""


@dataclass(frozen=True)
class ReadingRule:
    """How image files are read."""

    color: ColorRule = "convert"
    accept_damaged: bool = False
    """whether files whose damage leaves the pixels whole are read"""


PLAIN = ReadingRule()
"""colours to sRGB, no damage"""


@dataclass(frozen=True)
class Picture:
    """An image as a model takes it."""

    pixels: Pixels
    """[H,W,C]"""
    remarks: tuple[str, ...]
    """what a person should know about how it was read, each to follow on the file's name"""
    profile: bytes | None = None
    """ICC profile of the pixels; None for sRGB"""
    damage: str = ""
    """what was passed over; '' if nothing"""


def read_picture(file: BinaryIO, channels: int, rule: ReadingRule) -> Picture:
    """The image in an open file with `channels` channels.

    Raises BrokenImage for one that cannot be used, DoesNotFit before an image is decoded that the memory cannot hold.
    """
    frames = 1

    def check(header: Image.Image) -> None:
        nonlocal frames
        frames = frame_count(header)
        needed = _BYTES_PER_PIXEL * header.width * header.height
        if needed > (available := available_bytes(torch.device("cpu"))):
            raise DoesNotFit(f"an image of {header.width}x{header.height} pixels", needed, available, tiled=True)

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
    return Picture(to_uint8(image, channels), tuple(said), image.info.get("icc_profile"), damage)


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
