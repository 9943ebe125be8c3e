"""NumPy's .npy and .npz.

[H, W], [H, W, C] and [C, H, W] are one image; [N, H, W, C] and [N, C, H, W] are N. The channels are the last or the
first axis of an image, whichever is shorter than both others; arrays for which neither holds are refused. With an axis,
[A, B, C] is a volume whose slices along it are grey images. Objects, which would need pickle, are refused.
"""

import io
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from latent_ae.errors import BrokenImage
from latent_ae.io.pixel_format import MAX_CHANNELS
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, Region

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NumpyFile(RasterFile):
    suffixes = (".npy", ".npz")

    @staticmethod
    def starts(head: bytes) -> bool:
        return head.startswith((npy.MAGIC_PREFIX, b"PK\x03\x04"))

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        self._stream, size = _only_member(stream) if stream.read(2) == b"PK" else (stream, stream.seek(0, io.SEEK_END))
        self._stream.seek(0)
        version = npy.read_magic(self._stream)
        if version not in _HEADERS:
            raise BrokenImage(f"its array has the format version {version[0]}.{version[1]}: save it by numpy.save")
        self._shape, self._fortran, self._dtype = _HEADERS[version](self._stream)
        self._start = self._stream.tell()
        if self._dtype.kind not in "biuf" or self._dtype.itemsize > 8:
            raise BrokenImage(f"its values are {self._dtype}: save integers or floats of up to 64 bits")
        self._whole = math.prod(self._shape) * self._dtype.itemsize
        if (missing := self._start + self._whole - size) > 0:
            raise BrokenImage(f"it is cut short: {missing} of {self._whole} bytes of its values are missing")
        self._axis, self._first = _layout(self._shape, axis)
        self.pages = 1 if self._axis is None else self._shape[self._axis]

    def header(self, page: int) -> PageHeader:
        shape = tuple(length for axis, length in enumerate(self._shape) if axis != self._axis)
        shape = (*shape, 1) if len(shape) == 2 else shape
        height, width, channels = shape[1:] + shape[:1] if self._first else shape
        return PageHeader(height, width, channels, self._dtype, 0 if self._in_one_piece else self._whole)

    def read(self, page: int) -> Raster:
        if self._in_one_piece:
            shape = self._shape[1:] if self._axis == 0 else self._shape
            page = page if self._axis == 0 else 0
            values = self._read(page * math.prod(shape) * self._dtype.itemsize, shape)
        else:
            values = self._read(0, self._shape)
            values = values if self._axis is None else values.take(page, self._axis)
        values = values[:, :, None] if values.ndim == 2 else values
        return Raster(np.moveaxis(values, 0, -1) if self._first else values)

    def read_region(self, page: int, region: Region) -> Raster | None:
        if not isinstance(self._stream, io.BufferedReader):
            return None
        order: Any = "F" if self._fortran else "C"
        values: NDArray[Any]
        values = np.memmap(self._stream, self._dtype, "r", self._start, self._shape, order)  # reads what is taken
        values = values if self._axis is None else np.moveaxis(values, self._axis, 0)[page]
        values = values[:, :, None] if values.ndim == 2 else values
        return Raster(np.array(region.of(np.moveaxis(values, 0, -1) if self._first else values)))

    @property
    def _in_one_piece(self) -> bool:
        """Whether the values of a page lie behind each other."""
        return self._axis is None or (self._axis == 0 and not self._fortran)

    def _read(self, start: int, shape: tuple[int, ...]) -> NDArray[Any]:
        order: Any = "F" if self._fortran else "C"
        if start == 0 and isinstance(self._stream, io.BufferedReader) and not self._in_one_piece:
            # Only what is taken of it is read from the disk.
            return np.memmap(self._stream, self._dtype, "r", self._start, shape, order)
        self._stream.seek(self._start + start)
        data = self._stream.read(math.prod(shape) * self._dtype.itemsize)
        return np.frombuffer(data, self._dtype).reshape(shape, order=order)


def _only_member(stream: BinaryIO) -> tuple[BinaryIO, int]:
    """The one array of an archive, and how many bytes it has unpacked."""
    stream.seek(0)
    archive = zipfile.ZipFile(stream)
    names = archive.namelist()
    if len(names) != 1 or not names[0].endswith(".npy"):
        what = ", ".join(name.removesuffix(".npy") for name in names[:4]) + (", ..." if len(names) > 4 else "")
        raise BrokenImage(f"it holds {len(names)} arrays or files ({what}): save one image array in a file")
    member: Any = archive.open(names[0])  # it reads, seeks and tells
    return member, archive.getinfo(names[0]).file_size


def _layout(shape: tuple[int, ...], axis: int | None) -> tuple[int | None, bool]:
    """(axis of the pages, whether the channels are the first of the other axes)."""
    if axis is not None:
        if len(shape) != 3 or not -3 <= axis < 3:
            raise BrokenImage(f"axis {axis} was asked for of an array {list(shape)}: only volumes [A, B, C] have axes")
        return axis % 3, False
    if len(shape) == 2:
        return None, False
    if len(shape) not in (3, 4):
        raise BrokenImage(f"it is an array {list(shape)}: save [H, W], [H, W, C] or [N, H, W, C]")
    first, middle, last = shape[-3:]
    pages = None if len(shape) == 3 else 0
    if last < min(first, middle) and last <= MAX_CHANNELS:
        return pages, False
    if first < min(middle, last) and first <= MAX_CHANNELS:
        return pages, True
    raise BrokenImage(
        f"which axis of the array {list(shape)} are the channels is not clear: save [H, W, C] with up to "
        f"{MAX_CHANNELS} channels and larger H and W, or state the axis of a volume's slices"
    )
