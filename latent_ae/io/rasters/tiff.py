"""TIFF by tifffile: planar or not, BigTIFF, either byte order, 1 to 64 bits, signed, float, bands of GeoTIFF.

Each page is an image; thumbnails, masks and reduced copies are left out. Grey with white as 0 is inverted, palettes are
applied, and the image is turned upright by its orientation. What compresses the values may need imagecodecs.
"""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from latent_ae.errors import BrokenImage
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, Region, refuse_axis
from latent_ae.io.rasters.tiff_region import read_part

_REDUCED_OR_MASK = 1 | 4
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LINEAR = 0, 1, 2, 3, 5, 6, 34892
_JPEG = (6, 7, 34892)
_DNG_VERSION, _ORIENTATION, _GDAL_NODATA = 50706, 274, 42113
_PREMULTIPLIED = 1
_MOST_PAGES = 1000
"""of a stranger's file: the tags of all are read"""
_LARGEST_CHUNK = 1 << 24
"""values of a tile or strip, which may be larger than the image"""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else Python prints its remarks on odd files

_PLACES: dict[tuple[int, ...] | None, list[int]] = {}
"""those of files of many pages that were read before, as each of their pages is an image of its own"""
_MOST_PLACES = 4096


class TiffFile(RasterFile):
    suffixes = (".tif", ".tiff", ".btf", ".tf8", ".gtiff")
    extra = "tiff"

    @staticmethod
    def starts(head: bytes) -> bool:
        return head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))

    def __init__(self, stream: BinaryIO, axis: int | None, *, limited: bool) -> None:
        import tifffile

        refuse_axis(axis, "a TIFF")
        self._stream = stream
        self._tiff = tifffile.TiffFile(stream, _multifile=False)
        self._size = self._tiff.filehandle.size
        if limited and (count := len(self._tiff.pages)) > _MOST_PAGES:
            raise BrokenImage(f"it has {count} pages, expected at most {_MOST_PAGES}")
        self._places = _image_places(stream, self._tiff.pages)
        self._tags: dict[int, Any] = {}
        self.pages = len(self._places)
        metadata = self._tiff.imagej_metadata or {}
        if int(metadata.get("images", 1)) > self.pages:
            raise BrokenImage(
                f"only the first of its {metadata['images']} ImageJ planes has tags: save one page a plane"
            )

    def header(self, page: int) -> PageHeader:
        tags = self._tags[page] = self._tiff.pages[self._places[page]]
        _check(tags, self._size)
        height, width, channels = tags.imagelength, tags.imagewidth, tags.samplesperpixel
        if _orientation(tags) >= 5:
            height, width = width, height
        if tags.photometric == _PALETTE:
            channels, dtype = 3, np.dtype(np.uint16)
        else:
            dtype = tags.dtype
        return PageHeader(height, width, channels, dtype)

    def read(self, page: int) -> Raster:
        tags = self._tags[page]
        with _missing_codecs():
            values = tags.asarray(maxworkers=1)
        return self._interpreted(_channels_last(values, tags), tags)

    def read_region(self, page: int, region: Region) -> Raster | None:
        tags = self._tags[page]
        if _orientation(tags) != 1:
            return None
        if tags.is_memmappable and isinstance(self._stream, io.BufferedReader):  # however long its strips are
            kind = tags.dtype.newbyteorder(tags.parent.byteorder)
            whole: NDArray[Any] = np.memmap(self._stream, kind, "r", tags.dataoffsets[0], tags.shape)
            return self._interpreted(np.array(region.of(_channels_last(whole, tags))), tags)
        with _missing_codecs():
            return self._interpreted(read_part(self._stream, tags, region), tags)

    def _interpreted(self, values: NDArray[Any], tags: Any) -> Raster:
        """Stored values [H, W, C] by what the tags say of them."""
        remarks = []
        if tags.photometric == _PALETTE:
            values = tags.colormap[:, values[:, :, 0]].transpose(1, 2, 0)
        elif tags.photometric == _WHITE_IS_ZERO:
            values = _inverted(values, tags.bitspersample)
        if _PREMULTIPLIED in tags.extrasamples:
            remarks.append("has colours that are multiplied by alpha")
        nodata = tags.tags.valueof(_GDAL_NODATA)
        if nodata is not None:
            remarks.append(f"marks missing values as {str(nodata).strip()}, which are read as such numbers")
        notes: Any = self._tiff.shaped_metadata or ({},)  # where `write_raster` records the unit
        return Raster(_upright(values, _orientation(tags)), str(notes[0].get("unit", "")), tuple(remarks))


@contextmanager
def _missing_codecs() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise ModuleNotFoundError(str(error), name="imagecodecs") from error
        raise


def _channels_last(values: NDArray[Any], tags: Any) -> NDArray[Any]:
    """[H, W] or [C, H, W] -> [H, W, C]."""
    values = values[:, :, None] if values.ndim == 2 else values
    return np.moveaxis(values, 0, -1) if tags.axes == "SYX" else values


def _image_places(stream: BinaryIO, pages: Any) -> list[int]:
    """Which pages are images, and no thumbnails, masks or reduced copies of others: finding it reads all their tags."""
    try:
        state = os.fstat(stream.fileno())
        file = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError:  # not a file of the disk
        file = None
    if file in _PLACES:
        return _PLACES[file]
    every = range(len(pages))
    places = [number for number in every if not int(pages[number].subfiletype) & _REDUCED_OR_MASK] or list(every)
    if not places:
        raise BrokenImage("it holds no image, or is cut short")
    if file is not None and len(places) > 1:
        if len(_PLACES) >= _MOST_PLACES:
            _PLACES.clear()
        _PLACES[file] = places
    return places


def _check(tags: Any, size: int) -> None:
    """Raise BrokenImage for a page that is cut short, or whose values have no one meaning as numbers."""
    import tifffile

    if not isinstance(tags, tifffile.TiffPage):
        raise BrokenImage("its page has no tags of its own")
    if _DNG_VERSION in tags.tags:
        raise BrokenImage("it is a camera raw file (DNG): develop it, and save that as 16-bit TIFF")
    if tags.dtype is None or tags.dtype.kind not in "biuf":
        raise BrokenImage(f"its values are {tags.dtype or 'of an unknown type'}: save integers or floats")
    if tags.imagedepth > 1:
        raise BrokenImage(f"it is a volume of {tags.imagedepth} planes in one page: save one page a plane")
    name = getattr(tags.photometric, "name", str(tags.photometric))
    if tags.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LINEAR) or (
        tags.photometric == _YCBCR and tags.compression not in _JPEG
    ):
        raise BrokenImage(f"its colours are {name}, which is not read as numbers: save it as grey or RGB")
    if tags.photometric == _PALETTE and (tags.samplesperpixel != 1 or tags.colormap is None):
        raise BrokenImage("it has a palette beside other channels: save it as RGB")
    if tags.photometric == _WHITE_IS_ZERO and tags.dtype.kind not in "bu":
        raise BrokenImage(
            f"it says that 0 is white of {tags.dtype}, which has no largest value: save it with black as 0"
        )
    if int(np.prod(tags.chunks, dtype=np.float64)) > max(_LARGEST_CHUNK, tags.size):
        raise BrokenImage(f"its tiles {list(tags.chunks)} are far larger than the image {list(tags.shape)}")
    ends = [start + count for start, count in zip(tags.dataoffsets, tags.databytecounts, strict=False) if count]
    if max(ends, default=0) > size:
        raise BrokenImage(f"it is cut short: its values end at byte {max(ends)}, the file at {size}")


def _orientation(tags: Any) -> int:
    value = tags.tags.valueof(_ORIENTATION, default=1)
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """[H, W, C] as it is to be seen, by the TIFF tag: 2 mirrored, 3 upside down, 5 to 8 sideways."""
    values = values.transpose(1, 0, 2) if orientation >= 5 else values
    values = values[::-1] if orientation in (3, 4, 7, 8) else values
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _inverted(values: NDArray[Any], bits: Any) -> NDArray[Any]:
    return ~values if values.dtype.kind == "b" else values.dtype.type(2 ** int(bits) - 1) - values
