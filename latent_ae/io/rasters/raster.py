"""The interface of a reader of one format."""

from abc import ABC, abstractmethod
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_ae.errors import BrokenImage

MOST_CHANNELS = 64


class Raster(NamedTuple):
    """An image as the numbers that its file holds."""

    values: NDArray[Any]
    """[H, W, C] of the file's own dtype in native byte order, writable; 1-bit values are uint8 0 and 1"""
    unit: str = ""
    """of the values, such as HU; '' if the file states none"""
    remarks: tuple[str, ...] = ()
    """what a person should know about how the file was read, each to follow on its name: has a no-data value of ..."""


class PageHeader(NamedTuple):
    """What the header tells about a page."""

    height: int
    width: int
    channels: int
    dtype: np.dtype[Any]
    memory: int = 0
    """bytes that reading the page decodes at once, where that is more than the page"""


class RasterFile(ABC):
    """An open file of one format, its header read and no pixel decoded.

    Methods raise BrokenImage for what cannot be read right. Whatever else the format's library raises becomes a
    BrokenImage in `latent_ae.io.rasters`, and so does a missing package, whose extra `extra` names.
    """

    suffixes: ClassVar[tuple[str, ...]]
    """file name endings in lower case; what a file is follows from `starts` alone"""
    extra: ClassVar[str] = ""
    """the extra of latent-ae with the packages; '' if the base install has them"""

    pages: int
    """how many images the file holds"""

    @staticmethod
    @abstractmethod
    def starts(head: bytes) -> bool:
        """Whether a file with these first 264 bytes is of this format."""

    @abstractmethod
    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        """Read the header.

        Args:
            stream: at its start; it can seek.
            axis: of a volume, that the pages are counted along; None for the format's own.
            limited: the file is a stranger's: nothing may be decoded whose size the header does not tell before.
        """

    @abstractmethod
    def header(self, page: int) -> PageHeader: ...

    @abstractmethod
    def read(self, page: int) -> Raster:
        """Values [H, W, C] as the page's header says, of any byte order, contiguous or not."""


def refuse_axis(axis: int | None, what: str) -> None:
    """Raise BrokenImage if an axis was asked for in a format whose pages follow from the file."""
    if axis is not None:
        raise BrokenImage(f"axis {axis} was asked for, which {what} does not have: leave the axis out")


def rescaled(values: NDArray[Any], slope: float, intercept: float, low: int, high: int) -> NDArray[Any]:
    """`values * slope + intercept` of integers in low..high.

    With whole slope and intercept in the smallest integer type that holds all of low..high, so that the type does not
    depend on the values; else in float32, computed in float64.
    """
    ends = sorted((low * slope + intercept, high * slope + intercept))
    if values.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        kind = np.result_type(np.min_scalar_type(int(ends[0])), np.min_scalar_type(int(ends[1])))
        if kind.kind in "iu" and ends[0] > -(2**62) and ends[1] < 2**62:
            return (values.astype(np.int64) * int(slope) + int(intercept)).astype(kind)
    return (values.astype(np.float64) * slope + intercept).astype(np.float32)
