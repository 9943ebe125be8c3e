"""OpenEXR by its own library: half, float and 32-bit unsigned channels; each part is an image.

The image is the display window, as viewers show it: values outside of the data window are 0. Channels come as R, G, B,
A, then others by name, the unnamed layer first. Deep data and subsampled channels are refused.
"""

from typing import Any, BinaryIO

import numpy as np

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, refuse_axis

_ORDER = ("R", "G", "B", "A")
_BYTES = 4
"""of a value, at most: the header does not tell how many"""


class ExrFile(RasterFile):
    suffixes = (".exr",)
    extra = "exr"

    @staticmethod
    def starts(head: bytes) -> bool:
        return head.startswith(b"v/1\x01")

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        refuse_axis(axis, "an OpenEXR file")
        self._stream = stream
        file = _file(stream, header_only=True)
        self.pages = len(file.parts)
        self._headers: list[dict[str, Any]] = [file.header(part) for part in range(self.pages)]

    def header(self, page: int) -> PageHeader:
        header = self._headers[page]
        if "deep" in header["type"].name:
            raise BrokenImage("its pixels are deep data, many values a pixel: flatten it first")
        if any(channel.xSampling != 1 or channel.ySampling != 1 for channel in header["channels"]):
            raise BrokenImage("its channels have fewer samples than pixels (luminance and chroma): save it as RGB")
        height, width = _size(header["displayWindow"])
        everything = sum(np.prod(_size(part["dataWindow"])) * len(part["channels"]) for part in self._headers)
        return PageHeader(height, width, len(header["channels"]), np.dtype(np.float32), memory=int(everything) * _BYTES)

    def read(self, page: int) -> Raster:
        self._stream.seek(0)
        file = _file(self._stream, header_only=False)
        if len(file.parts) != self.pages:  # the library drops a part that it cannot decode
            raise BrokenImage("its pixels are cut short or damaged")
        channels = file.channels(page)
        names = sorted(channels, key=_place)
        values = np.stack([channels[name].pixels for name in names], axis=2)
        data, display = self._headers[page]["dataWindow"], self._headers[page]["displayWindow"]
        remarks = [f"has the channels {', '.join(names)}"] if names not in (["Y"], list("RGB"), list("RGBA")) else []
        if not (np.array_equal(data[0], display[0]) and np.array_equal(data[1], display[1])):
            remarks.append(f"has pixels in {_window(data)} of a picture of {_window(display)}; others are 0")
            values = _placed(values, data, display)
        return Raster(values, remarks=tuple(remarks))


def _file(stream: BinaryIO, *, header_only: bool) -> Any:
    import OpenEXR

    return OpenEXR.File(stream, separate_channels=True, header_only=header_only, num_threads=0)


def _place(name: str) -> tuple[str, int, str]:
    layer, _, channel = name.rpartition(".")
    return layer, _ORDER.index(channel) if channel in _ORDER else len(_ORDER), channel


def _size(window: Any) -> tuple[int, int]:
    (left, top), (right, bottom) = window
    return int(bottom) - int(top) + 1, int(right) - int(left) + 1


def _window(window: Any) -> str:
    return "({0[0]}, {0[1]})..({1[0]}, {1[1]})".format(*window)


def _placed(values: Any, data: Any, display: Any) -> Any:
    """The values [H, W, C] of the data window in the display window."""
    result = np.zeros((*_size(display), values.shape[2]), values.dtype)
    shift_x, shift_y = (int(data[0][axis]) - int(display[0][axis]) for axis in (0, 1))
    rows = slice(max(0, shift_y), max(0, min(result.shape[0], shift_y + values.shape[0])))
    columns = slice(max(0, shift_x), max(0, min(result.shape[1], shift_x + values.shape[1])))
    result[rows, columns] = values[
        rows.start - shift_y : rows.stop - shift_y, columns.start - shift_x : columns.stop - shift_x
    ]
    return result
