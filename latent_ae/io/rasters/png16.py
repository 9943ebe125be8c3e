"""PNG of 16 bits in colour or with alpha by imagecodecs: Pillow cuts these to 8 bits."""

from typing import BinaryIO

import numpy as np

from latent_ae.io.image_file.containers import PNG_START
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, refuse_axis

_CHANNELS = {2: 3, 4: 2, 6: 4}
"""by the colour type in the header; 0, which is grey, is for Pillow"""


class Png16File(RasterFile):
    suffixes = (".png",)
    extra = "png16"
    pages = 1

    @staticmethod
    def starts(head: bytes) -> bool:
        return head.startswith(PNG_START) and head[24:25] == b"\x10" and head[25:26] in (b"\2", b"\4", b"\6")

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        refuse_axis(axis, "a picture")
        self._data = stream.read()

    def header(self, page: int) -> PageHeader:
        width, height = int.from_bytes(self._data[16:20], "big"), int.from_bytes(self._data[20:24], "big")
        return PageHeader(height, width, _CHANNELS[self._data[25]], np.dtype(np.uint16))

    def read(self, page: int) -> Raster:
        import imagecodecs

        return Raster(imagecodecs.png_decode(self._data))
