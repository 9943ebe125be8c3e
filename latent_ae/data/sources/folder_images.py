"""Image files by number."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from latent_ae.data.reading import PICTURES, File, Loaded, Reading, image_name
from latent_ae.data.source import DataError
from latent_ae.data.sources.files import content, join, opened, sizes
from latent_ae.data.sources.tables import CAPTION_COLUMNS, Row, as_numbers
from latent_ae.errors import BrokenImage
from latent_ae.io.rasters import Region
from latent_ae.io.undecoded import UndecodedImage

_THREADS = 16
T = TypeVar("T")


class FolderImages:
    """Image files below a folder; an id is the path relative to it, with forward slashes."""

    def __init__(
        self,
        root: Path | str,
        names: Sequence[str],
        *,
        reading: Reading = PICTURES,
        prefix: str = "",
        label_names: tuple[str, ...] = (),
        labels: Sequence[int | None] | None = None,
        rows: Sequence[Row] | None = None,
    ) -> None:
        """`root` is a folder or an address, `names` are paths below it, and `prefix` begins their ids. `labels` and
        `rows` (of a table or metadata) are those of each file; `label_names` are the names of the numbers.
        """
        self._root, self._names, self._prefix, self._reading = str(root), names, prefix, reading
        self._labels, self._rows = labels, rows
        self.label_names = label_names
        self._pages: list[tuple[int, int | None]] | None = None
        """(file, page) of each image; None where each file is an image"""
        if reading.pages == "all":
            with ThreadPoolExecutor(_THREADS) as pool:  # over a network each is a round trip
                found = list(pool.map(self._pages_of, names))
            self._pages = [(file, page) for file, pages in enumerate(found) for page in pages]

    def __len__(self) -> int:
        return len(self._names if self._pages is None else self._pages)

    def sample_id(self, index: int) -> str:
        """The path relative to the folder, which may be moved, and `#PAGE` where a file has several images."""
        file, page = self._file(index)
        return image_name(self._prefix + self._names[file], page)

    def load(self, index: int) -> Loaded:
        """Raises BrokenImage, also for a file that was removed."""
        return self._read(index, self._reading.load)

    def open(self, index: int) -> UndecodedImage | Loaded:
        """What `load` gives, not decoded yet where parts of it can be decoded alone. Raises BrokenImage."""
        return self._read(index, self._reading.open)

    def load_region(self, index: int, region: Region) -> NDArray[Any] | None:
        """A part of what `load` gives; None where it would decode the whole. Raises BrokenImage."""
        return self._reading.load_region(opened(self._place(index)), region, self._file(index)[1])

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the upright image, from its header. Raises BrokenImage."""
        return self._reading.size(opened(self._place(index)), self._file(index)[1])

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, size of the file)."""
        found = sizes([self._place(index) for index in range(len(self))])
        return ((self.sample_id(index), size) for index, size in enumerate(found))

    def stored_bytes(self, index: int) -> bytes:
        """The file's content. Raises OSError, BrokenImage."""
        file = opened(self._place(index))
        return file.read_bytes() if isinstance(file, Path) else file.getvalue()

    def label(self, index: int) -> int | None:
        """Number of the image's class; None for an image without one."""
        return None if self._labels is None else self._labels[self._file(index)[0]]

    def caption(self, index: int) -> str | None:
        """The image's caption in its table, or else the text file beside it (`a/cat.txt` of `a/cat.jpg`); None if there
        is neither. Raises BrokenImage if the text file cannot be read.
        """
        row = {} if self._rows is None else self._rows[self._file(index)[0]]
        if (text := next((row[name] for name in CAPTION_COLUMNS if row.get(name)), None)) is not None:
            return str(text)
        place = self._place(index)
        file = place.removesuffix(Path(place).suffix) + ".txt"
        try:
            return content(file).decode("utf-8-sig").strip()  # Windows' editors put a mark before the text
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            name = Path(file).name
            raise BrokenImage(f"its caption {name} cannot be read: {error}", self.sample_id(index)) from error

    def column(self, name: str) -> "TableColumn":
        """Another column of the table or metadata of the images. Raises DataError if it does not exist."""
        columns = sorted({column for row in self._rows or () for column in row})
        if name not in columns:
            there = f"; their columns are {', '.join(columns)}" if columns else ": they have no table or metadata"
            raise DataError(f"{name} is no column of the images in {self._root}{there}")
        rows = self._rows or ()
        return TableColumn([rows[self._file(index)[0]].get(name) for index in range(len(self))])

    def _read(self, index: int, read: Callable[[File, int | None], T]) -> T:
        place = self._place(index)
        try:
            return read(opened(place), self._file(index)[1])
        except BrokenImage as error:
            raise BrokenImage(error.reason, place) from error

    def _pages_of(self, name: str) -> list[int | None]:
        try:
            return self._reading.pages_of(opened(join(self._root, name)))
        except BrokenImage:  # an address that cannot be read, which is met as other broken images are
            return [None]

    def _file(self, index: int) -> tuple[int, int | None]:
        """The number of its file, and its page in it."""
        return (index, None) if self._pages is None else self._pages[index]

    def _place(self, index: int) -> str:
        return join(self._root, self._names[self._file(index)[0]])


class TableColumn:
    """Values of a column by the index of the image."""

    class_names: tuple[str, ...] = ()

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = as_numbers(values) or values  # those of a CSV file are texts

    def __getitem__(self, index: int) -> Any:
        return self._values[index]
