"""Decoded images as files that hold all of their channels and bits, with a record of how they were made."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.io.atomic import write_atomically
from latent_ae.io.image_file.opening import reading
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.io.rasters.writing import KEY, Alpha, raster_bytes, raster_suffixes

_END = b"\0\0\0\0IEND\xaeB`\x82"
"""the last chunk of a PNG, which PIL does not insist on"""


def suffixes_for(pixels: PixelFormat) -> tuple[str, ...]:
    """The endings of files that hold such images, the usual one first: .png where it can."""
    return raster_suffixes(np.dtype(pixels.dtype), pixels.channels, _alpha(pixels))


def check_suffix(suffix: str, pixels: PixelFormat) -> None:
    """Raise UserError for files that cannot hold such images."""
    able = suffixes_for(pixels)
    if suffix.lower() not in able:
        raise UserError(
            f"{suffix} files cannot hold the images of the model ({pixels.describe()}): use {' or '.join(able)}"
        )


def image_bytes(
    suffix: str,
    array: Array,
    pixels: PixelFormat,
    *,
    record: Mapping[str, object] | None = None,
    profile: bytes | None = None,
) -> bytes:
    """The contents of a file with an image in it.

    Args:
        suffix: of the file, one of `suffixes_for`.
        array: [H,W,C] in the units and dtype of `pixels`; premultiplied alpha becomes straight, as files have it.
        pixels: what the values mean.
        record: for `read_record`; an NPY has no place for it.
        profile: ICC profile of a picture's colours; None for sRGB.

    Raises UserError if a package is missing.
    """
    text = "" if record is None else json.dumps(record, sort_keys=True)
    straight = pixels.straight(array)
    return raster_bytes(suffix, straight, unit=pixels.unit, alpha=_alpha(pixels), text=text, profile=profile)


def write_image(
    path: Path,
    array: Array,
    pixels: PixelFormat,
    *,
    record: Mapping[str, object] | None = None,
    profile: bytes | None = None,
) -> None:
    """Write `image_bytes` in the format of the path's ending, whole or not at all. Raises UserError, OSError."""
    write_atomically(path, image_bytes(path.suffix, array, pixels, record=record, profile=profile))


def read_record(path: Path) -> tuple[dict[str, object], tuple[int, int]] | None:
    """The record in a PNG or TIFF, and its height and width; None if there is no whole file with one."""
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".png":
            with reading(limited=False), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                text, size = image.info[KEY], (image.height, image.width)
                image.verify()  # every chunk's checksum
            whole = data.endswith(_END)
        else:
            with tifffile.TiffFile(io.BytesIO(data)) as tiff:
                text, size = tiff.shaped_metadata[0][KEY], tiff.pages.first.shape[:2]
                whole = tiff.asarray().size > 0  # which checks the sums of what is compressed
        record = json.loads(text)
    except Exception:  # a file that cannot be read is one that has to be made again, whatever is wrong with it
        return None
    return (record, size) if isinstance(record, dict) and whole else None


def _alpha(pixels: PixelFormat) -> Alpha:
    """Of files."""
    return "none" if pixels.alpha == "none" else "straight"
