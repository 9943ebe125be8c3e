"""The image formats of Pillow, as the numbers that the file holds: no profile is applied and nothing is rounded.

Palettes are applied, as their indices mean nothing, and a transparent colour of PNG becomes alpha, as PNG defines it.
What Pillow would cut to 8 bits or scale is refused.
"""

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_ae.errors import BrokenImage
from latent_ae.io.image_file.containers import boxes, contents
from latent_ae.io.image_file.opening import FORMATS, SUFFIXES, frame_count, opened, upright, upright_size
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, refuse_axis

_FORMATS = tuple(
    name for name in FORMATS if name not in ("TIFF", "JPEG2000", "JXL")
)  # of JPEG XL, PIL does not tell the bits
_KINDS: dict[str, tuple[int, np.dtype[Any]]] = {
    "1": (1, np.dtype(np.uint8)),
    "L": (1, np.dtype(np.uint8)),
    "LA": (2, np.dtype(np.uint8)),
    "RGB": (3, np.dtype(np.uint8)),
    "RGBA": (4, np.dtype(np.uint8)),
    "CMYK": (4, np.dtype(np.uint8)),
    "I": (1, np.dtype(np.uint16)),
    "I;16": (1, np.dtype(np.uint16)),
    "I;16B": (1, np.dtype(np.uint16)),
    "F": (1, np.dtype(np.float32)),
}
"""(channels, dtype) by PIL's mode"""
_FEWER_BITS = {"L;2": 85, "L;4": 17}
"""what Pillow multiplies the values of PNG with 2 and 4 bits with"""


class PictureFile(RasterFile):
    suffixes = tuple(sorted(SUFFIXES - {".tif", ".tiff", ".jp2", ".jpx", ".jxl"}))
    pages = 1

    @staticmethod
    def starts(head: bytes) -> bool:
        return True

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        refuse_axis(axis, "a picture")
        self._stream, self._limited = stream, limited
        with opened(stream, formats=_FORMATS, limited=limited) as image:
            _refuse_more_bits(image, stream)
            height, width = upright_size(image)
            self._frames = frame_count(image) if image.format != "MPO" else 1  # its others are previews
            self._header = PageHeader(height, width, *_KINDS[_mode(image)])

    def header(self, page: int) -> PageHeader:
        return self._header

    def read(self, page: int) -> Raster:
        self._stream.seek(0)
        with opened(self._stream, formats=_FORMATS, limited=self._limited) as image:
            mode, tile = _mode(image), getattr(image, "tile", ())
            step = _FEWER_BITS.get(tile[0].args, 1) if image.format == "PNG" and tile and image.mode == "L" else 1
            key = image.info.get("transparency") if image.mode in ("L", "RGB", "I", "I;16") else None
            image.load()
            whole = upright(image)
            whole = whole.convert(mode) if whole.mode in ("P", "PA") else whole
            values = np.asarray(whole).astype(self._header.dtype)
            values = values[:, :, None] if values.ndim == 2 else values
            values = values // step if step > 1 else values
            values = values if key is None else _with_alpha(values, np.atleast_1d(key), 255 // step)
        more = self._frames - 1
        return Raster(values, remarks=(f"has {more} more frame{'s'[: more > 1]}, not used",) if more else ())


def _mode(image: Image.Image) -> str:
    """The mode of the values."""
    if image.mode in ("P", "PA"):
        return "RGBA" if image.has_transparency_data else "RGB"
    if "transparency" in image.info and image.mode in ("L", "RGB"):
        return image.mode + "A"
    if image.mode not in _KINDS or "transparency" in image.info:
        raise BrokenImage(f"{image.format} of mode {image.mode} cannot be read as numbers: save it as TIFF or NPY")
    return image.mode


def _with_alpha(values: NDArray[Any], key: NDArray[Any], opaque: int) -> NDArray[Any]:
    """[H, W, C] -> [H, W, C + 1] with alpha that is 0 where the values are the transparent ones."""
    alpha = np.where((values == key).all(axis=2, keepdims=True), 0, opaque)
    return np.concatenate([values, alpha.astype(values.dtype)], axis=2)


def _refuse_more_bits(image: Image.Image, stream: BinaryIO) -> None:
    """Raise BrokenImage for values that Pillow scales, or cuts to 8 bits."""
    bits = _bits(image, stream)
    if bits != 8 and not (bits == 16 and image.mode.startswith("I")) and not (image.format == "PNG" and bits < 8):
        raise BrokenImage(
            f"it is a {image.format} of {bits:g} bits, which would be cut to 8 or scaled: save it as PNG, TIFF or NPY"
        )


def _bits(image: Image.Image, stream: BinaryIO) -> float:
    """Bits of a value, a fraction for levels that are not all of them; 8 for formats that know nothing else."""
    if image.format == "PPM" and image.mode not in ("1", "F"):
        args = image.tile[0].args  # type: ignore[attr-defined]
        top = args[-1] if isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 1 else 255
        return float(np.log2(top + 1))
    if image.format in ("AVIF", "HEIF"):
        for part in boxes(stream, (b"meta", b"iprp", b"ipco", b"pixi")):
            return max(contents(stream, part)[5:], default=8)
    if image.format in ("PNG", "SGI"):
        stream.seek(24 if image.format == "PNG" else 3)
        return stream.read(1)[0] * (1 if image.format == "PNG" else 8)
    return 8
