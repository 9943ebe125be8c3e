"""JPEG 2000 by imagecodecs: integers of up to 32 bits, signed too, of any channels. Pillow would stretch them."""

import struct
from typing import BinaryIO

import numpy as np

from latent_ae.errors import BrokenImage
from latent_ae.io.image_file.containers import boxes, contents
from latent_ae.io.pixel_format import MAX_CHANNELS
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, refuse_axis

_CODESTREAM = b"\xff\x4f\xff\x51"
_SYCC = b"\1\0\0" + (18).to_bytes(4, "big")
"""the start of the box that says that the channels are YCbCr"""
_SIZE = struct.Struct(">4sHHIIIIIIIIH")
"""the marker with the size, by ISO/IEC 15444-1 A.5.1"""


class Jpeg2000File(RasterFile):
    suffixes = (".jp2", ".jpx", ".j2k")
    extra = "jp2"
    pages = 1

    @staticmethod
    def starts(head: bytes) -> bool:
        return head.startswith((_CODESTREAM, b"\0\0\0\x0cjP  \r\n\x87\n"))

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        refuse_axis(axis, "a picture")
        self._stream = stream
        start = 0
        if stream.read(4) != _CODESTREAM:
            start = next((part.start for part in boxes(stream, (b"jp2c",))), 0)
            if any(contents(stream, part)[:7] == _SYCC for part in boxes(stream, (b"jp2h", b"colr"))):
                raise BrokenImage("its colours are YCbCr: save it as RGB")
        stream.seek(start)
        marker, _, _, right, bottom, left, top, *_, channels = _SIZE.unpack(stream.read(_SIZE.size))
        components = stream.read(3 * channels)
        if marker != _CODESTREAM or channels > MAX_CHANNELS or len(components) < 3 * channels:
            raise BrokenImage("its header is damaged")
        kinds = {np.dtype(f"{'i' if depth >> 7 else 'u'}{_item_bytes((depth & 127) + 1)}") for depth in components[::3]}
        if len(kinds) != 1 or set(components[1::3]) | set(components[2::3]) != {1}:
            raise BrokenImage("its channels have different types or sizes: save it as TIFF")
        self._header = PageHeader(bottom - top, right - left, channels, kinds.pop())

    def header(self, page: int) -> PageHeader:
        return self._header

    def read(self, page: int) -> Raster:
        import imagecodecs

        height, width, channels, kind, _ = self._header
        values = np.empty((height, width, channels) if channels > 1 else (height, width), kind)
        self._stream.seek(0)
        imagecodecs.jpeg2k_decode(self._stream.read(), out=values)  # which refuses other sizes before it decodes
        return Raster(values.reshape(height, width, channels))


def _item_bytes(bits: int) -> int:
    return 1 if bits <= 8 else 2 if bits <= 16 else 4
