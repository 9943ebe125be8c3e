"""A part of a page of a TIFF, by the tiles or strips that it lies in: scans are larger than the memory."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latent_ae.io.rasters.raster import Region

_PLANAR = 2


class _Segment(NamedTuple):
    """A tile or strip."""

    number: int
    """in the file"""
    plane: int
    top: int
    left: int


def read_part(stream: BinaryIO, tags: Any, region: Region) -> NDArray[Any]:
    """[H, W, C] as they are stored. `tags` is tifffile's page, and lies in the file that `stream` reads."""
    channels = tags.samplesperpixel
    planes = channels if tags.planarconfig == _PLANAR else 1
    height, width = _segment_size(tags)
    decode = partial(tags.decode, jpegtables=tags.jpegtables, jpegheader=tags.jpegheader)  # which may read the file
    result = np.empty((planes, region.height, region.width, channels // planes), tags.dtype)
    for segment in _segments(tags, planes, height, width, region):
        top, bottom = max(segment.top, region.top), min(segment.top + height, region.top + region.height)
        left, right = max(segment.left, region.left), min(segment.left + width, region.left + region.width)
        place = result[segment.plane, top - region.top : bottom - region.top, left - region.left : right - region.left]
        count = tags.databytecounts[segment.number]
        if not count:  # a hole, which GDAL leaves where all values are missing
            place[:] = tags.nodata
            continue
        stream.seek(tags.dataoffsets[segment.number])
        values, _, _ = decode(stream.read(count), segment.number)
        place[:] = values[0, top - segment.top : bottom - segment.top, left - segment.left : right - segment.left]
    return np.moveaxis(result[..., 0], 0, -1) if planes > 1 else result[0]


def _segment_size(tags: Any) -> tuple[int, int]:
    if tags.is_tiled:
        return tags.tilelength, tags.tilewidth
    return min(tags.rowsperstrip, tags.imagelength), tags.imagewidth


def _segments(tags: Any, planes: int, height: int, width: int, region: Region) -> Iterator[_Segment]:
    """Those that the region touches."""
    down, across = -(-tags.imagelength // height), -(-tags.imagewidth // width)
    rows = range(region.top // height, (region.top + region.height - 1) // height + 1)
    columns = range(region.left // width, (region.left + region.width - 1) // width + 1)
    for plane, row, column in product(range(planes), rows, columns):
        yield _Segment((plane * down + row) * across + column, plane, row * height, column * width)
