"""NIfTI (.nii, .nii.gz) by nibabel: slices of a volume along one of its three axes, the third by default.

A slice has the other two axes in their order, as stored: `get_fdata()[:, :, k]`, neither turned nor mirrored by the
affine. Further axes count as pages, the slices first: slice k at time t of a volume of K slices is page t K + k.
Vectors and RGB are channels. Slope and intercept are applied.
"""

import gzip
import io
import math
from typing import Any, BinaryIO

import numpy as np

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, rescaled

_MAGIC = 344, 348
_SINGLE = (b"n+1\0", b"n+2\0")
_PAIR = (b"ni1\0", b"ni2\0")
_LARGEST_OFFSET = 1 << 26
"""bytes of header and extensions before the values; reaching it unpacks all of them"""


class NiftiFile(RasterFile):
    suffixes = (".nii", ".nii.gz")
    extra = "nifti"

    @staticmethod
    def starts(head: bytes) -> bool:
        return head.startswith(b"\x1f\x8b") or head[slice(*_MAGIC)] in _SINGLE + _PAIR or head[4:8] in _SINGLE + _PAIR

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        import nibabel

        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        self._stream: Any = gzip.GzipFile(fileobj=stream) if packed else stream
        self._packed = packed
        head = self._stream.read(_MAGIC[1])
        if head[4:8] in _PAIR or head[slice(*_MAGIC)] in _PAIR:
            raise BrokenImage("its values are in another file (.img): save header and values as one .nii")
        second = head[4:8] in _SINGLE
        if not second and head[slice(*_MAGIC)] not in _SINGLE:
            raise BrokenImage("it is a gzip archive of something other than NIfTI: unpack it")
        self._stream.seek(0)
        header: Any = (nibabel.Nifti2Header if second else nibabel.Nifti1Header).from_fileobj(self._stream, check=False)
        shape = header.get_data_shape()
        self._shape = (*shape, 1) if len(shape) == 2 else shape
        self._dtype = header.get_data_dtype()
        self._offset = int(header.get_data_offset())
        slope, intercept = header.get_slope_inter()
        self._slope, self._intercept = 1.0 if slope is None else float(slope), float(intercept or 0)
        self._axis = _spatial_axis(self._shape, axis)
        self._fields = len(self._dtype.names or ())
        if (self._dtype.kind not in "iuf" and not self._fields) or self._dtype.itemsize > 8:
            raise BrokenImage(f"its values are {self._dtype}: save integers or floats of up to 64 bits")
        if self._offset > _LARGEST_OFFSET:
            raise BrokenImage(f"its values start at byte {self._offset}, expected at most {_LARGEST_OFFSET}")
        end = self._offset + math.prod(self._shape) * self._dtype.itemsize
        if not packed and (missing := end - stream.seek(0, io.SEEK_END)) > 0:
            raise BrokenImage(f"it is cut short: {missing} bytes of its values are missing")
        self._times = self._shape[3] if len(self._shape) > 3 else 1
        self._vector = self._shape[4] if len(self._shape) == 5 else 1
        self.pages = self._shape[self._axis] * self._times

    def header(self, page: int) -> PageHeader:
        height, width = (length for axis, length in enumerate(self._shape[:3]) if axis != self._axis)
        kind = np.dtype(np.uint8) if self._fields else self._dtype
        whole = self._axis != 2 or self._vector > 1
        memory = math.prod(self._shape) * self._dtype.itemsize if whole and self._packed else 0
        return PageHeader(height, width, self._fields or self._vector, kind, memory)

    def read(self, page: int) -> Raster:
        from nibabel.fileslice import fileslice

        time, place = divmod(page, self._shape[self._axis])
        index: list[Any] = [slice(None)] * len(self._shape)
        index[self._axis] = place
        if len(self._shape) > 3:
            index[3] = time
        values = fileslice(self._stream, tuple(index), self._shape, self._dtype, self._offset, order="F")
        if self._fields:
            return Raster(np.stack([values[name] for name in self._dtype.names], axis=-1))
        if (self._slope, self._intercept) != (1, 0):
            values = rescaled(values, self._slope, self._intercept)
        return Raster(values[:, :, None] if values.ndim == 2 else values)


def _spatial_axis(shape: tuple[int, ...], axis: int | None) -> int:
    """Which of the three axes of a volume the slices lie along."""
    if len(shape) < 3 or len(shape) > 5 or min(shape) < 1:
        raise BrokenImage(f"its values have the shape {list(shape)}, expected two to five axes")
    if axis is None:
        return 2
    if not -3 <= axis < 3:
        raise BrokenImage(f"axis {axis} was asked for, expected 0, 1 or 2")
    return axis % 3
