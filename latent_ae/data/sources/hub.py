"""Data sets in the formats of the `datasets` library: on the disk, or by name from the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from latent_ae.data.grid import GridConfig
from latent_ae.data.reading import PICTURES, Loaded, Reading, image_name
from latent_ae.data.source import DataError, LeftOut, SourceParts, file_size, split_by_hash
from latent_ae.data.sources.datasets_files import (
    IMAGES,
    TARS,
    DatasetConfig,
    Opened,
    open_builder,
    refuse_shared,
    unreadable,
)
from latent_ae.data.sources.datasets_library import (
    class_names,
    has_lists,
    image_column,
    images_of_row,
    open_stored,
    stored_content,
    stored_file,
    type_name,
)
from latent_ae.data.sources.files import plain
from latent_ae.data.sources.splits import HELDOUT_PREFIX, choose, only_split, rows_by_split, unused_split
from latent_ae.data.sources.tars import COLUMNS as TAR_COLUMNS
from latent_ae.data.sources.tars import tar_dataset
from latent_ae.errors import BrokenImage
from latent_ae.io.undecoded import UndecodedImage


class HubImages:
    """The image column of rows of one split.

    An id is `SPLIT/ROW`, the row as 8 digits. It stays the same as long as the split holds the same rows in the same
    order; adding rows at its end changes none. Image K of a row that has a list of them is `SPLIT/ROW#K`.
    """

    def __init__(
        self,
        dataset: Any,
        column: str,
        split: str,
        rows: Sequence[int],
        *,
        whole: Any = None,
        reading: Reading = PICTURES,
    ) -> None:
        """`dataset` is a datasets.Dataset whose `column` has undecoded images; `rows` are those of this part, and
        `whole` is the data set with all of its columns. With all pages of `reading`, the images are read here once.
        """
        self._dataset, self._whole, self._reading = dataset, whole, reading
        self._column, self._split, self._rows = column, split, rows
        self._places: list[tuple[int | None, int | None]] | None = None
        """(place in the list of its row, page) of each image; None where each row has one"""
        if reading.pages == "all" or has_lists(dataset, column):
            found = [(row, each) for row in rows for each in images_of_row(dataset[int(row)][column], reading)]
            self._rows, self._places = [row for row, _ in found], [each for _, each in found]

    def __len__(self) -> int:
        return len(self._rows)

    def sample_id(self, index: int) -> str:
        """`SPLIT/ROW` or `SPLIT/ROW#K`."""
        place, page = self._place(index)
        return image_name(image_name(_row_id(self._split, self._rows[index]), place), page)

    def load(self, index: int) -> Loaded:
        """Raises BrokenImage also for a row without an image."""
        return open_stored(self._content(index), self.sample_id(index), self._reading.load, self._place(index)[1])

    def open(self, index: int) -> UndecodedImage | Loaded:
        """What `load` gives, not decoded yet where parts of it can be decoded alone. Raises BrokenImage."""
        return open_stored(self._content(index), self.sample_id(index), self._reading.open, self._place(index)[1])

    def column(self, name: str) -> "HubColumn":
        """Another column of the images. Raises DataError if it does not exist."""
        features = {} if self._whole is None else self._whole.features
        if name not in features:
            listing = ", ".join(f"{each} ({type_name(feature)})" for each, feature in features.items())
            raise DataError(f"{name} is no column of split {self._split}; its columns are {listing}")
        return HubColumn(self._whole.with_format(None).select_columns([name]), name, self._rows)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the upright image, from its header. Raises BrokenImage."""
        sample_id = self.sample_id(index)
        try:
            return self._reading.size(stored_file(self._content(index), sample_id), self._place(index)[1])
        except BrokenImage as error:
            raise BrokenImage(error.reason, sample_id) from error

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, bytes) of every row, without reading the images."""
        if self._places is not None:
            return ((self.sample_id(index), -1) for index in range(len(self)))
        sizes = _stored_sizes(self._dataset, self._column)
        return ((self.sample_id(index), sizes[row]) for index, row in enumerate(self._rows))

    def stored_bytes(self, index: int) -> bytes:
        """The image file in a row. Raises BrokenImage, OSError."""
        return stored_content(self._content(index), self.sample_id(index))

    def _content(self, index: int) -> dict[str, Any] | None:
        """{"bytes", "path"} of an image; None if its row holds none."""
        stored = self._dataset[int(self._rows[index])][self._column]
        place, _ = self._place(index)
        found: dict[str, Any] | None = stored if place is None else stored[place]
        return found

    def _place(self, index: int) -> tuple[int | None, int | None]:
        return (None, None) if self._places is None else self._places[index]


class HubColumn:
    """Values of a column by the index of the image."""

    def __init__(self, dataset: Any, name: str, rows: Sequence[int]) -> None:
        self._dataset = dataset
        self._name = name
        self._rows = rows
        self.class_names: tuple[str, ...] = tuple(getattr(dataset.features[name], "names", None) or ())
        """names of the numbers in a column of classes"""

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._rows[index])][self._name]


class HubConfig(GridConfig, DatasetConfig):
    """hub: a data set in one of the formats of the `datasets` library."""

    source: Literal["hub"] = "hub"

    has_columns = True

    def open(self) -> SourceParts:
        """Open `data.path`: a parquet or arrow file, a folder of them, of images or of `save_to_disk`, or a hub name.

        A folder or hub name with several configurations takes one of them as `PATH:CONFIGURATION`. The images of
        `data.heldout_path` are held out, or else a validation or test split (`data.heldout_split` names another), or
        else the rows of the training split whose id hashes below `heldout_share`. Only a hub name uses the network.
        Raises DataError.
        """
        what = f"data.path {self.path}"
        splits, left_out = self._splits(self.path, "data.path")
        if self.split_column is not None:
            splits = _divided(splits, self.split_column, what)
        train, heldout, unused = choose(splits, self, what)
        train = train.with_images(self.image_column, what)
        if self.heldout_path is not None:
            apart, more = self._splits(self.heldout_path, "data.heldout_path")
            heldout = only_split(apart, f"data.heldout_path {self.heldout_path}")
            refuse_shared(train.files, heldout.files, self.heldout_path)
            heldout, left_out = replace(heldout, name=f"{HELDOUT_PREFIX}{heldout.name}"), left_out + more
        elif heldout is None:
            ids = (_row_id(train.name, row) for row in train.rows)
            parts = split_by_hash(ids, self.heldout_share, f"{what}, split {train.name}")
            train, heldout = (replace(train, rows=[train.rows[each] for each in part.tolist()]) for part in parts)
        heldout = heldout.with_images(self.image_column, what)
        left_out += LeftOut({unused_split(name): len(split.rows) for name, split in unused.items()})
        left_out += self.reading.further_pages(Path(file) for file in train.files | heldout.files)
        images = train.part(self.reading), heldout.part(self.reading)
        return self.cut(
            SourceParts(*images, left_out=left_out, unused=tuple(unused)),
            self.heldout_share,
            numbers=self.reads_numbers,
        )

    def _splits(self, path: str, setting: str) -> "tuple[dict[str, _Split], LeftOut]":
        """The splits of a data set by name, and its files that are in none. Raises DataError."""
        import datasets  # noqa: PLC0415 - takes seconds, and few sources need it

        local, left_out, files = Path(plain(path)), LeftOut(), {}
        try:
            if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
                loaded = datasets.load_from_disk(str(local))
            else:
                opened = open_builder(path, setting)
                loaded = self._loaded(opened)
                files = opened.real_files
                left_out = opened.left_out({str(name): len(dataset) for name, dataset in loaded.items()})
        except DataError:
            raise
        except Exception as error:  # an empty table is an IndexError, a damaged one an ArrowInvalid, ...
            raise unreadable(path, error) from error
        found = {str(loaded.split or "train"): loaded} if isinstance(loaded, datasets.Dataset) else loaded
        splits = {
            str(name): _Split(str(name), rows, range(len(rows)), files.get(str(name), frozenset()))
            for name, rows in found.items()
        }
        return splits, left_out

    def _loaded(self, opened: Opened) -> dict[str, Any]:
        """The data set of each split, unpacked into the cache of `datasets`."""
        if opened.kind != TARS:
            opened.builder.download_and_prepare()
            counts = {str(name): split.num_examples for name, split in opened.builder.info.splits.items()}
            if opened.kind != IMAGES or all(counts.values()):
                return dict(opened.builder.as_dataset())
            # Where there are metadata, images have rows by them alone, and a split without any has none.
            filled = {name: opened.builder.as_dataset(name) for name, count in counts.items() if count}
            return {name: filled.get(name) or next(iter(filled.values())).select([]) for name in counts}
        files = opened.builder.config.data_files
        return {
            str(name): tar_dataset(
                tars, self.image_column, self.reading.suffixes, version=str(files[name].origin_metadata)
            )
            for name, tars in opened.data_files.items()
        }


@dataclass(frozen=True)
class _Split:
    """Rows of a data set."""

    name: str
    """of the split that `datasets` has them in, which begins their ids"""
    dataset: Any
    """a datasets.Dataset"""
    rows: Sequence[int]
    files: frozenset[str]
    """that it is made of"""
    images: Any = None
    """the data set of its undecoded images alone"""
    column: str = ""

    def with_images(self, wanted: str | None, what: str) -> Self:
        """The split, its column of images found. Raises DataError."""
        of_tars = self.dataset.features.keys() == TAR_COLUMNS
        images, column = image_column(self.dataset, None if of_tars else wanted, what)
        return replace(self, images=images, column=column)

    def part(self, reading: Reading) -> HubImages:
        """The images of the rows."""
        return HubImages(self.images, self.column, self.name, self.rows, whole=self.dataset, reading=reading)


def _divided(splits: dict[str, _Split], column: str, what: str) -> dict[str, _Split]:
    """The rows of a data set of one split by the values of a column. Raises DataError."""
    split = only_split(splits, what)
    if column not in split.dataset.features:
        listing = ", ".join(split.dataset.features)
        raise DataError(f"{what}: data.split_column {column} is no column; its columns are {listing}")
    values = class_names(split.dataset.features[column], split.dataset.select_columns([column])[:][column])
    return {name: replace(split, rows=rows) for name, rows in rows_by_split(values).items()}


def _stored_sizes(dataset: Any, column: str) -> list[int]:
    """Sizes in bytes of the images of a data set, -1 if unknown. Reads only their offsets in the table."""
    import pyarrow as pa  # noqa: PLC0415 - comes with datasets, as late
    import pyarrow.compute as pc  # noqa: PLC0415

    sizes: list[int] = []
    for chunk in dataset.data.column(column).chunks:
        lengths = pc.binary_length(chunk.field("bytes"))
        if lengths.null_count:  # files beside the table
            paths = chunk.field("path").to_pylist()
            beside = [-1 if path is None or "://" in path else file_size(Path(path)) for path in paths]
            lengths = pc.coalesce(lengths, pa.array(beside, lengths.type))
        sizes += pc.if_else(chunk.is_valid(), lengths, 0).to_pylist()  # a row without an image
    order = dataset._indices  # of a data set that was filtered, sorted or shuffled
    return sizes if order is None else [sizes[row] for row in order.column(0).to_pylist()]


def _row_id(split: str, row: int) -> str:
    return f"{split}/{row:08d}"
