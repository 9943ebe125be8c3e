"""What the header of an image file tells, without decoding its pixels."""

import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

from latent_ae.image import FORMATS, BrokenImage

_SIDEWAYS = range(5, 9)


def header_size(file: Path | BinaryIO) -> tuple[int, int]:
    """(height, width) in pixels of the upright image. Raises BrokenImage if the header cannot be read."""
    name = str(file) if isinstance(file, Path) else None
    try:
        with warnings.catch_warnings(), Image.open(file, formats=FORMATS) as image:
            warnings.simplefilter("ignore")
            # PIL decodes a whole PNG to look for EXIF data behind its pixels.
            hidden = image.format == "PNG" and "exif" not in image.info
            sideways = not hidden and image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
            width, height = image.size
    except Exception as error:  # a damaged or hostile file makes PIL raise nearly anything
        raise BrokenImage(str(error) or type(error).__name__, name) from error
    return (width, height) if sideways else (height, width)
