"""Image files of which only a part is decoded, turned and converted to sRGB, with the pixels that `open_image` gives.

file -> open_undecoded -> UndecodedImage -> part(box) -> PIL image of the size of the box
"""

import io
from pathlib import Path

from PIL import ExifTags, Image

from latent_ae.io.image import in_srgb
from latent_ae.io.image_file import color
from latent_ae.io.image_file.jpeg import first_rows, stored_size
from latent_ae.io.image_file.opening import broken_image_errors, opened, upright

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels"""

_JPEG = b"\xff\xd8\xff"
_FORMATS = ("JPEG",)
"""MPO too, whose first image is a JPEG"""
_FEWEST_PIXELS = 256 * 256
"""of a smaller image the header takes longer to read twice than its pixels to decode"""


class UndecodedImage:
    """A JPEG in memory whose header was read."""

    def __init__(self, data: bytes, name: str | None, size: tuple[int, int], orientation: int) -> None:
        """`name` is that of the file, for errors, `size` that of the upright image."""
        self._data, self._name, self._orientation = data, name, orientation
        self.size = size
        """(width, height) in pixels of the upright image"""

    def part(self, box: Box) -> Image.Image:
        """The part `box` of what `open_image` gives, which lies in the image; without remarks. It may be larger to the
        right and below, where to cut it would be all of the work.

        Rows below it are not decoded, so that damage there may go unnoticed. Raises BrokenImage.
        """
        stored = _stored_box(box, self.size, self._orientation)
        data = first_rows(self._data, stored[3])
        with (
            broken_image_errors(Path(self._name) if self._name else io.BytesIO(self._data)),
            opened(io.BytesIO(data), formats=_FORMATS) as image,
        ):
            profile = color.declared_profile(image)
            in_place = box[:2] == (0, 0) and (self._orientation == 1 or data is self._data) and profile is None
            part = upright(image if in_place else image.crop(stored))
            mode = color.color_mode(part)
            if profile is not None and mode is not None:
                part, _ = in_srgb(part, profile, mode)
        part.info = {}
        return part


def open_undecoded(file: Path | io.BytesIO) -> UndecodedImage | None:
    """An image file of which parts can be decoded; None for one that `open_image` has to read whole: small images, and
    all but JPEGs. Raises BrokenImage if the header cannot be read.
    """
    with broken_image_errors(file):
        data = _jpeg(file)
    if data is None or (stored := stored_size(data)) is None or stored.height * stored.width < _FEWEST_PIXELS:
        return None
    with opened(io.BytesIO(data), formats=_FORMATS) as image:
        probe = Image.new("L", (1, 2))
        probe.info = dict(image.info)
        turned = upright(probe)  # EXIF that is broken turns nothing
        orientation = 1 if turned is probe else image.getexif()[ExifTags.Base.Orientation]
        size = image.size if turned.size == (1, 2) else image.size[::-1]
    return UndecodedImage(data, str(file) if isinstance(file, Path) else None, size, orientation)


def _jpeg(file: Path | io.BytesIO) -> bytes | None:
    if isinstance(file, io.BytesIO):
        return file.getvalue() if file.getbuffer()[:3] == _JPEG else None
    with file.open("rb") as stream:
        if stream.read(len(_JPEG)) != _JPEG:
            return None
        stream.seek(0)
        return stream.read()


def _stored_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """The place in the file of a part of the upright image of `size`, by its EXIF orientation (1 to 8)."""
    (left, top, right, bottom), (width, height) = box, size
    if orientation in (2, 3, 6, 7):  # stored from right to left, or from the right column to the left one
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation < 5 else (top, left, bottom, right)
