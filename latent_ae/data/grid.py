"""Sheets and scans cut into cells, each an image of its own: by `data.grid` or `data.tile`.

    image of H x W pixels -> rows x columns cells -> (image, row, column) by number -> its part of the decoded image

An id is that of the image with the place of the cell, `sheet.png@ROW,COLUMN`, counted from 1.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import model_validator

from latent_ae.config.section import Count, Section, Size, sides, size_of
from latent_ae.data.source import (
    CaptionedSource,
    Column,
    ColumnSource,
    DataError,
    ImageSource,
    LabelledSource,
    LeftOut,
    PartlyDecoded,
    SourceParts,
    StoredImages,
    image_size,
    split_by_hash,
    stored_size,
)
from latent_ae.io.image import BrokenImage
from latent_ae.io.pixel_format import Array
from latent_ae.io.rasters import Region

_THREADS = 8
_SHEET_PIXELS = 64 * 2**20
"""of an image that is decoded to find its empty cells, at most"""
_KEPT_BYTES = 512 * 2**20
"""decoded images that a process keeps, as other cells of them may come next; the last one always"""
_KEPT_PIXELS = _KEPT_BYTES // 4
"""of all images together; of more, cells are decoded alone where the format allows it"""


class Layout(NamedTuple):
    """The cells of an image."""

    rows: int
    columns: int
    height: int
    """of a cell, in pixels"""
    width: int

    def shown(self, visible: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
        """Which cells, row by row, have one of the `visible` pixels [H, W]; None: all pixels are."""
        if visible is None:
            return np.ones(self.rows * self.columns, np.bool_)
        return visible.reshape(self.rows, self.height, self.columns, self.width).any(axis=(1, 3)).reshape(-1)


class GridConfig(Section):
    """How the images of a source are cut into cells."""

    grid: tuple[Count, Count] | None = None
    """cut each image into so many rows and columns of cells, and take each cell for an image, unless all of it is
    transparent: sprite sheets"""
    tile: Annotated[int | Size | None, sides("data.tile")] = None
    """the same with cells of this side, or height and width, in pixels, from the upper left: scans"""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.grid is not None and self.tile is not None:
            raise ValueError("data.grid and data.tile both say how images are cut into cells: give one of them")
        return self

    @property
    def cuts(self) -> bool:
        """Whether images are cut into cells."""
        return self.grid is not None or self.tile is not None

    def cut(self, parts: SourceParts, share: float, *, numbers: bool) -> SourceParts:
        """The cells of the images of both parts, or `parts` itself if nothing is cut.

        Cells of an image are in one part, as neighbours are alike; a single file, which is in both, has a `share` of
        its cells held out. `numbers` says whether images are read as numbers, which are never transparent. Raises
        DataError for a grid that does not divide an image, and if no image holds a tile.
        """
        if not self.cuts:
            return parts
        train, left_out, said = self._cells(parts.train, numbers)
        if len(parts.train) and len(parts.heldout) and parts.train.sample_id(0) == parts.heldout.sample_id(0):
            ids = [train.sample_id(number) for number in range(len(train))]
            kept, apart = split_by_hash(ids, share, f"the grid of {parts.train.sample_id(0)}")
            said += ("its cells are divided between training and held-out part, as there is one file",)
            heldout = train.only(apart)
            train = train.only(kept)
        else:
            heldout, more, also = self._cells(parts.heldout, numbers)
            left_out, said = left_out + more, said + also
        if not len(train) and not len(heldout):
            raise DataError(f"none of the images is as large as data.tile {self._named()}: lower it")
        return replace(parts, train=train, heldout=heldout, left_out=parts.left_out + left_out, said=parts.said + said)

    def _cells(self, source: ImageSource, numbers: bool) -> tuple["Cells", LeftOut, tuple[str, ...]]:
        """The cells that show something, what else there is, and what should be said."""
        left_out, layouts, shown, rests = LeftOut(), [], [], 0
        with ThreadPoolExecutor(_THREADS) as pool:
            for index, found in enumerate(pool.map(partial(self._seen, source, numbers), range(len(source)))):
                if found is None:
                    left_out["whose pixels cannot be read"] += 1
                size, visible = found or ((0, 0), None)
                layout = self._layout(*size, source.sample_id(index))
                if found is not None and not layout.rows * layout.columns:
                    left_out[f"smaller than data.tile {self._named()}"] += 1
                rests += layout.rows * layout.height < size[0] or layout.columns * layout.width < size[1]
                layouts.append(layout)
                shown.append(layout.shown(visible))
        kept = np.concatenate([*shown, np.zeros(0, np.bool_)])
        left_out["empty cells"] += int((~kept).sum())
        said = (f"the border that fills no tile is left out in {rests:,} of {len(source):,} images",) if rests else ()
        return Cells(source, layouts, np.flatnonzero(kept)), left_out + LeftOut(), said

    def _seen(self, source: ImageSource, numbers: bool, index: int) -> tuple[Size, NDArray[np.bool_] | None] | None:
        """The size of an image, and of a sheet with transparency which of its pixels can be seen; None if broken."""
        try:
            height, width = stored_size(source, index)
            if self.tile is None and not numbers and height * width <= _SHEET_PIXELS:
                image = source.load(index)
                if isinstance(image, Image.Image) and image.has_transparency_data:
                    return image_size(image), np.asarray(image.convert("RGBA"))[:, :, 3] > 0
        except BrokenImage:
            return None
        return (height, width), None

    def _layout(self, height: int, width: int, sample_id: str) -> Layout:
        if self.tile is not None:
            tile = size_of(self.tile)
            return Layout(height // tile[0], width // tile[1], *tile)
        assert self.grid is not None
        rows, columns = self.grid if height else (0, 0)
        if rows and (height % rows or width % columns):
            raise DataError(
                f"data.grid {rows} {columns} does not divide {sample_id}, {height} pixels high and {width} wide: "
                f"{_nearest_divisor(height, rows)} rows and {_nearest_divisor(width, columns)} columns would"
            )
        return Layout(rows, columns, height // max(1, rows), width // max(1, columns))

    def _named(self) -> str:
        assert self.tile is not None
        return "x".join(map(str, dict.fromkeys(size_of(self.tile))))


class Cells:
    """The cells of the images of a source, by number: those of an image row by row."""

    def __init__(self, source: ImageSource, layouts: Sequence[Layout], chosen: NDArray[np.int64]) -> None:
        """`layouts` are those of each image, `chosen` the numbers of the cells to take among all."""
        self._source, self._layouts, self._chosen = source, layouts, chosen
        counts = [layout.rows * layout.columns for layout in layouts]
        self._ends = np.cumsum(counts, dtype=np.int64)
        pixels = sum(layout.height * layout.width * count for layout, count in zip(layouts, counts, strict=True))
        self._large = pixels > _KEPT_PIXELS
        """whether more is decoded for the cells than can be kept"""
        self._kept: OrderedDict[int, Image.Image | Array] = OrderedDict()
        self.label_names = source.label_names if isinstance(source, LabelledSource) else ()

    def __len__(self) -> int:
        return len(self._chosen)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}

    def only(self, chosen: NDArray[np.int64]) -> "Cells":
        """The cells of these numbers alone."""
        return Cells(self._source, self._layouts, self._chosen[chosen])

    def sample_id(self, index: int) -> str:
        """`ID@ROW,COLUMN`."""
        image, row, column = self._place(index)
        return f"{self._source.sample_id(image)}@{row + 1},{column + 1}"

    def load(self, index: int) -> Image.Image | Array:
        """Raises BrokenImage."""
        image, row, column = self._place(index)
        _, _, height, width = self._layouts[image]
        top, left = row * height, column * width
        if self._large and isinstance(self._source, PartlyDecoded):
            part = self._source.load_region(image, Region(top, left, height, width))
            if part is not None:
                return part
        whole = self._whole(image)
        whole_height, whole_width = image_size(whole)
        if whole_height < top + height or whole_width < left + width:
            raise BrokenImage(f"it is {whole_height} pixels high and {whole_width} wide, less than its header says")
        if isinstance(whole, Image.Image):
            return whole.crop((left, top, left + width, top + height))
        return whole[top : top + height, left : left + width]

    def size(self, index: int) -> Size:
        """(height, width)."""
        layout = self._layouts[self._place(index)[0]]
        return layout.height, layout.width

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, bytes of its image)."""
        sizes = [size for _, size in self._source.stored()] if isinstance(self._source, StoredImages) else None
        for index in range(len(self)):
            yield self.sample_id(index), -1 if sizes is None else sizes[self._place(index)[0]]

    def stored_bytes(self, index: int) -> bytes:
        """Those of its image. Raises BrokenImage, OSError."""
        if not isinstance(self._source, StoredImages):
            raise BrokenImage("its source stores no images", self.sample_id(index))
        return self._source.stored_bytes(self._place(index)[0])

    def label(self, index: int) -> int | None:
        """That of its image."""
        return self._source.label(self._place(index)[0]) if isinstance(self._source, LabelledSource) else None

    def caption(self, index: int) -> str | None:
        """That of its image."""
        return self._source.caption(self._place(index)[0]) if isinstance(self._source, CaptionedSource) else None

    def column(self, name: str) -> "CellColumn":
        """Another column of its image. Raises DataError if it does not exist."""
        if not isinstance(self._source, ColumnSource):
            raise DataError(f"{name} is no column of the images, which have none")
        return CellColumn(self._source.column(name), lambda index: self._place(index)[0])

    def _place(self, index: int) -> tuple[int, int, int]:
        """(image, row, column) of a cell."""
        number = int(self._chosen[index])
        image = int(np.searchsorted(self._ends, number, side="right"))
        layout = self._layouts[image]
        first = int(self._ends[image]) - layout.rows * layout.columns
        return image, *divmod(number - first, layout.columns)

    def _whole(self, image: int) -> Image.Image | Array:
        """The decoded image, kept for its next cells."""
        found = self._kept.pop(image, None)
        self._kept[image] = found = self._source.load(image) if found is None else found
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return found


class CellColumn:
    """Values of a column of the images by the index of the cell."""

    def __init__(self, values: Column, image_of: Callable[[int], int]) -> None:
        self._values, self._image_of = values, image_of
        self.class_names = values.class_names

    def __getitem__(self, index: int) -> Any:
        return self._values[self._image_of(index)]


def _bytes(image: Image.Image | Array) -> int:
    if isinstance(image, Image.Image):
        return image.width * image.height * len(image.getbands())
    return int(image.nbytes)


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((each for each in range(1, number + 1) if number % each == 0), key=lambda each: abs(each - wanted))
