"""Image files as numbers: the values that a file holds, of its own type, with any number of channels up to 64.

Nothing is rounded and no colour profile is applied; `latent_ae.io.image` reads pictures in sRGB. Every format has a
reader in a file of its own, which follows from the file's content, not from its name. docs/formats.md says what each
reads and refuses.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from latent_ae.errors import BrokenImage, UserError, one_line
from latent_ae.io.image_file.opening import HEAD, broken_image_errors, reading
from latent_ae.io.pixel_format import MAX_CHANNELS
from latent_ae.io.rasters.dicom import DicomFile
from latent_ae.io.rasters.exr import ExrFile
from latent_ae.io.rasters.jpeg2000 import Jpeg2000File
from latent_ae.io.rasters.nifti import NiftiFile
from latent_ae.io.rasters.numpy_file import NumpyFile
from latent_ae.io.rasters.picture import PictureFile
from latent_ae.io.rasters.png16 import Png16File
from latent_ae.io.rasters.raster import PageHeader, Raster, RasterFile, Region
from latent_ae.io.rasters.tiff import TiffFile
from latent_ae.io.rasters.writing import raster_bytes, raster_suffixes, write_raster

__all__ = [
    "RASTER_SUFFIXES",
    "READERS",
    "Raster",
    "Region",
    "raster_bytes",
    "raster_pages",
    "raster_shape",
    "raster_suffixes",
    "read_raster",
    "read_raster_region",
    "write_raster",
]

READERS: dict[str, type[RasterFile]] = {
    "NumPy": NumpyFile,
    "DICOM": DicomFile,  # before TIFF: some files are both
    "TIFF": TiffFile,
    "NIfTI": NiftiFile,
    "OpenEXR": ExrFile,
    "16-bit PNG": Png16File,
    "JPEG 2000": Jpeg2000File,
    "picture": PictureFile,
}
"""The first whose `starts` holds reads a file; pictures, which are all that Pillow reads, come last."""

RASTER_SUFFIXES = tuple(sorted({suffix for reader in READERS.values() for suffix in reader.suffixes}))
"""File name endings in lower case, for `name.lower().endswith(RASTER_SUFFIXES)`: one of them is .nii.gz."""

_MOST_PAGES_PER_BYTE = 1100
"""what nothing compresses beyond"""
_LIMITED_BYTES = 8
"""of a pixel on average, where PIL's limit of pixels holds"""


def read_raster(file: Path | BinaryIO, *, page: int = 0, axis: int | None = None, limited: bool = False) -> Raster:
    """An image of a file as numbers [H, W, C], in the file's own type and native byte order.

    Args:
        file: a path or a stream that can seek, which stays open.
        page: which image of the file, counted from 0; negative from the end.
        axis: the axis of a volume that pages are counted along, for NIfTI and arrays [A, B, C]; None for the format's
            own, which is the third of NIfTI.
        limited: for strangers' files: PIL's limit of pixels (`PIL.Image.MAX_IMAGE_PIXELS`) holds, and 8 bytes for each,
            before anything is allocated.

    Raises BrokenImage for what cannot be read right: damaged files, values that have no one meaning as numbers, and
    formats whose package is not installed.
    """
    with _opened(file, axis, limited=limited) as raster:
        page = _checked_page(raster, page)
        header = _checked(raster.header(page), limited=limited)
        return _finished(raster.read(page), header[:3], page, raster.pages)


def read_raster_region(
    file: Path | BinaryIO, region: Region, *, page: int = 0, axis: int | None = None, limited: bool = False
) -> Raster | None:
    """A part of what `read_raster` gives; None where that would take decoding the whole.

    TIFF decodes the tiles or strips that it lies in, and .npy reads its values. Raises BrokenImage as `read_raster`
    does, and for a part that does not lie in the image.
    """
    with _opened(file, axis, limited=limited) as raster:
        page = _checked_page(raster, page)
        header = _checked(raster.header(page), limited=limited)
        _check_inside(region, header)
        found = raster.read_region(page, region)
        return found and _finished(found, (region.height, region.width, header.channels), page, raster.pages)


def raster_pages(file: Path | BinaryIO, *, axis: int | None = None, limited: bool = False) -> int:
    """How many images a file holds: pages, frames or slices. Only its header is read. Raises BrokenImage."""
    with _opened(file, axis, limited=limited) as raster:
        return raster.pages


def raster_shape(
    file: Path | BinaryIO, *, page: int = 0, axis: int | None = None, limited: bool = False
) -> tuple[int, int, int]:
    """(height, width, channels) of what `read_raster` gives. Only the header is read. Raises BrokenImage."""
    with _opened(file, axis, limited=limited) as raster:
        return _checked(raster.header(_checked_page(raster, page)), limited=limited)[:3]


def _finished(raster: Raster, shape: tuple[int, ...], page: int, pages: int) -> Raster:
    values, unit, remarks = raster
    if values.shape != shape:
        raise BrokenImage(f"its header promises {list(shape)} values, got {list(values.shape)}")
    kind = np.dtype(np.uint8) if values.dtype.kind == "b" else values.dtype.newbyteorder("=")
    values = values.astype(kind, copy=min(values.strides) < 0 or not values.flags.writeable)
    if pages > 1:
        remarks = (*remarks, f"has {pages} pages, of which this is page {page}")
    return Raster(values, unit, remarks)


@contextmanager
def _opened(file: Path | BinaryIO, axis: int | None, *, limited: bool) -> Iterator[RasterFile]:
    with broken_image_errors(file), reading(limited=limited), _stream(file) as stream:
        head, size = stream.read(HEAD), stream.seek(0, io.SEEK_END)
        name, reader = next((name, reader) for name, reader in READERS.items() if reader.starts(head))
        stream.seek(0)
        try:
            raster = reader(stream, axis, limited=limited)
            if raster.pages > _MOST_PAGES_PER_BYTE * size:
                raise BrokenImage(f"its header promises {raster.pages} pages, more than it has bytes for")
            yield raster
        except ModuleNotFoundError as error:
            what = f'pip install "latent-ae[{reader.extra}]"'
            raise BrokenImage(f"reading it needs {error.name}, which is not installed: {what}") from error
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a damaged or hostile file makes libraries raise nearly anything
            why = one_line(error)
            raise BrokenImage(
                f"it cannot be read as {name}: {why if ' ' in why else f'{type(error).__name__} {why}'}"
            ) from error


@contextmanager
def _stream(file: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(file, Path):
        with file.open("rb") as stream:
            yield stream
    else:
        file.seek(0)
        yield file


def _checked_page(raster: RasterFile, page: int) -> int:
    if not -raster.pages <= page < raster.pages:
        have = "one page" if raster.pages == 1 else f"{raster.pages} pages"
        raise BrokenImage(f"page {page} was asked for, and it has {have}, counted from 0")
    return page % raster.pages


def _check_inside(region: Region, header: PageHeader) -> None:
    top, left, height, width = region
    if min(top, left, height - 1, width - 1) < 0 or top + height > header.height or left + width > header.width:
        raise BrokenImage(
            f"a part of {width}x{height} pixels at ({left}, {top}) was asked for, which does not lie in its "
            f"{header.width}x{header.height} pixels"
        )


def _checked(header: PageHeader, *, limited: bool) -> PageHeader:
    """The header, unless the image has no pixels or is too large."""
    height, width, channels, dtype, memory = header
    if min(height, width, channels) < 1:
        raise BrokenImage(f"it has no pixels ({width}x{height}, {channels} channels)")
    if channels > MAX_CHANNELS:
        raise BrokenImage(f"it has {channels} channels, expected at most {MAX_CHANNELS}")
    most = Image.MAX_IMAGE_PIXELS if limited else None
    size = max(memory, height * width * channels * dtype.itemsize)
    if most is not None and (height * width > most or size > most * _LIMITED_BYTES):
        raise BrokenImage(
            f"it has {width}x{height} pixels in {size / 2**20:.0f} MiB, expected at most {most} pixels in "
            f"{most * _LIMITED_BYTES / 2**20:.0f} MiB"
        )
    return header
