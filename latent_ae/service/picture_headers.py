"""Headers of uploaded pictures: which format they have, and how large they are, before a pixel is decoded."""

import struct
from importlib.util import find_spec

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from latent_ae.io.image_file.opening import HEAD, PLUGINS, other_kind
from latent_ae.service.errors import BrokenUpload, TooLarge, UnsupportedFormat
from latent_ae.service.limits import ServiceLimits, check_pixels

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"RIFF": "WEBP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
"""how files of each format start, by PIL's name"""
_AVIF = (b"avif", b"avis")
_HEIF = PLUGINS["HEIF"]


def format_of(data: bytes) -> str:
    """PIL's name of the format. Raises UnsupportedFormat, which says what is missing for a phone's HEIC."""
    for start, name in _SIGNATURES.items():
        if data.startswith(start) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    if data[4:8] == b"ftyp" and data[8:12] in _AVIF:
        return "AVIF"
    other = other_kind(data[:HEAD])
    if other != _HEIF.kind:
        raise UnsupportedFormat(
            f"the upload is {other or 'not in a known image format'}; supported: JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP "
            "and TIFF"
        )
    if not find_spec(_HEIF.module):
        raise UnsupportedFormat(
            "the upload is a HEIC, which this server cannot read: send it as JPEG, or have the server's owner "
            f"pip install 'latent-ae[{_HEIF.extra}]'"
        )
    return "HEIF"


def check_header(image: Image.Image, limits: ServiceLimits) -> None:
    """Raise TooLarge for an opened picture of more pixels than are taken, or of larger tiles."""
    check_pixels(image.height, image.width, limits)
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        tile = tags.get(322, 1), tags.get(323, 1)
        if not all(isinstance(side, int) for side in tile) or tile[0] * tile[1] > limits.pixels:
            raise TooLarge(f"the TIFF has tiles of {tile[0]}x{tile[1]} pixels")


def other_frames(image: Image.Image) -> str:
    """What is said of an opened picture of which only the first frame or page is used; '' for a single one."""
    if isinstance(
        image, TiffImageFile
    ):  # PIL counts a TIFF's pages by reading all of them, and a small file can hold millions
        return "has several pages, of which this is the first" if image.tag_v2.next else ""
    animated = image.format in ("AVIF", "GIF", "PNG", "WEBP") and getattr(image, "is_animated", False)
    return "is animated; this is its first frame" if animated else ""


def check_webp(data: bytes, limits: ServiceLimits) -> None:
    """Check a WebP's own header: PIL allocates two canvases of its size when it opens one.

    Raises TooLarge, and BrokenUpload for one that is cut short.
    """
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and len(data) >= 30:
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    else:
        raise BrokenUpload("the WEBP file is damaged: it ends within its header")
    check_pixels(height, width, limits)
