"""How the files of a run become images: as pictures, or as the numbers that they hold, of one page or of every page."""

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from PIL import Image

from latent_ae.data.source import LeftOut
from latent_ae.errors import BrokenImage
from latent_ae.io.image import SUFFIXES, open_image
from latent_ae.io.image_header import header_size
from latent_ae.io.rasters import (
    RASTER_SUFFIXES,
    Region,
    raster_pages,
    raster_shape,
    read_raster,
    read_raster_region,
)
from latent_ae.io.undecoded import UndecodedImage, open_undecoded

Loaded = Image.Image | NDArray[Any]
"""a picture, or numbers [H, W, C]"""
File = Path | io.BytesIO
FURTHER_PAGES = "further pages of files (data.pages all takes them)"
"""the reason why a page is in no part"""
_PICTURE_SUFFIXES = tuple(sorted(SUFFIXES))
_PAGED = tuple(set(RASTER_SUFFIXES) - set(SUFFIXES) | {".tif", ".tiff"})
_THREADS = 16


@dataclass(frozen=True)
class Reading:
    """What is read of a file."""

    numbers: bool = False
    """whether the values of the file, and not a picture in sRGB"""
    pages: Literal["first", "all"] | int = "first"
    """numbers: which pages, slices or frames of a file are images; a number counts from 0"""
    axis: int | None = None
    """numbers: along which the pages of a volume are counted"""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of the names of images, in lower case."""
        return RASTER_SUFFIXES if self.numbers else _PICTURE_SUFFIXES

    def is_image(self, name: str) -> bool:
        """Whether a file is read, by the ending of its name."""
        return name.lower().endswith(self.suffixes)

    def load(self, file: File, page: int | None = None) -> Loaded:
        """An image of a file; `page` is one that `pages_of` gave. Raises BrokenImage."""
        if not self.numbers:
            return open_image(file)
        return read_raster(file, page=self._page(page), axis=self.axis).values

    def open(self, file: File, page: int | None = None) -> UndecodedImage | Loaded:
        """An image of a file, not decoded yet where parts of it can be decoded alone. Raises BrokenImage."""
        found = None if self.numbers else open_undecoded(file)
        return self.load(file, page) if found is None else found

    def load_region(self, file: File, region: Region, page: int | None = None) -> NDArray[Any] | None:
        """A part of what `load` gives; None where it would decode the whole. Raises BrokenImage."""
        found = read_raster_region(file, region, page=self._page(page), axis=self.axis) if self.numbers else None
        return found and found.values

    def size(self, file: File, page: int | None = None) -> tuple[int, int]:
        """(height, width) of what `load` gives, from the header. Raises BrokenImage."""
        return raster_shape(file, page=self._page(page), axis=self.axis)[:2] if self.numbers else header_size(file)

    def pages_of(self, file: File) -> list[int | None]:
        """The images of a file, its header read only where pages count: [None] for the one that every file has.

        A file that cannot be read has one, so that it is met as the others are.
        """
        count = self.page_count(file) if self.pages == "all" else 1
        return [None] if count == 1 else list(range(count))

    def page_count(self, file: File) -> int:
        """How many pages a file has; 1 if it cannot be read. Only its header is read."""
        try:
            return raster_pages(file, axis=self.axis) if self.numbers else 1
        except BrokenImage:
            return 1

    def further_pages(self, files: Iterable[Path]) -> LeftOut:
        """The pages of local files that are not read, by the headers of those that may have several."""
        if not self.numbers or self.pages == "all":
            return LeftOut()
        with ThreadPoolExecutor(_THREADS) as pool:
            counts = pool.map(self.page_count, (file for file in files if file.name.lower().endswith(_PAGED)))
            return LeftOut({FURTHER_PAGES: sum(count - 1 for count in counts)})

    def _page(self, page: int | None) -> int:
        if page is not None:
            return page
        return self.pages if isinstance(self.pages, int) else 0


PICTURES = Reading()


def image_name(name: str, page: int | None) -> str:
    """The id of an image of a file or row: its own, or `NAME#PAGE` of several."""
    return name if page is None else f"{name}#{page}"
