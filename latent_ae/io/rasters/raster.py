"""The interface of a reader of one format."""

from abc import ABC, abstractmethod
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_ae.errors import BrokenImage


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


class Region(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> tuple[int, int]:
        """(first, last + 1)."""
        return self.top, self.top + self.height

    @property
    def columns(self) -> tuple[int, int]:
        """(first, last + 1)."""
        return self.left, self.left + self.width

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """That part of [H, W, C]."""
        return values[slice(*self.rows), slice(*self.columns)]


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
        """Whether a file with these first bytes (HEAD) is of this format."""

    @abstractmethod
    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        """Read the header.

        Args:
            stream: at its start; it can seek.
            axis: of a volume, that the pages are counted along; None for the format's own.
            limited: the file is a stranger's: nothing may be decoded whose size the header does not tell before.
        """

    @abstractmethod
    def header(self, page: int) -> PageHeader:
        """What the header tells about a page. It is called before `read` of that page."""

    @abstractmethod
    def read(self, page: int) -> Raster:
        """Values [H, W, C] as the page's header says, of any byte order, contiguous or not."""

    def read_region(self, page: int, region: Region) -> Raster | None:
        """A part of the page, which lies in it; None if the whole page would have to be decoded."""
        return None


def refuse_axis(axis: int | None, what: str) -> None:
    """Raise BrokenImage if an axis was asked for in a format whose pages follow from the file."""
    if axis is not None:
        raise BrokenImage(f"axis {axis} was asked for, which {what} does not have: leave the axis out")


def rescaled(values: NDArray[Any], slope: float, intercept: float, ends: tuple[int, int] | None = None) -> NDArray[Any]:
    """`values * slope + intercept`.

    Integers with a whole slope and intercept become the smallest integers that hold the lowest and the highest value of
    `ends`, None for those of their type: what type results does not depend on the values. Others become float32,
    computed in float64, and float64 stays.
    """
    if values.dtype.kind in "iu" and float(slope).is_integer() and float(intercept).is_integer():
        lowest, highest = ends or (int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max))
        products = [end * int(slope) for end in (lowest, highest)]
        sums = [product + int(intercept) for product in products]
        result = _smallest(sums)
        work = _smallest([lowest, highest, int(slope), int(intercept), *products, *sums])
        if result is not None and work is not None:
            exact: NDArray[Any] = values.astype(work) * work.type(slope) + work.type(intercept)
            return exact.astype(result, copy=False)
    wide = np.result_type(values.dtype, np.float32) if values.dtype.kind == "f" else np.dtype(np.float32)
    return (values.astype(np.float64) * slope + intercept).astype(wide)


def _smallest(numbers: list[int]) -> np.dtype[Any] | None:
    """The smallest integer type that holds all of them, None if there is none."""
    kinds = (np.dtype(kind) for kind in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"))
    fits = (kind for kind in kinds if np.iinfo(kind).min <= min(numbers) and max(numbers) <= np.iinfo(kind).max)
    return next(fits, None)
