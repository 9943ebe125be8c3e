"""Data sets in the formats of the `datasets` library: on the disk, or by name from the Hugging Face hub."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from latent_ae.data.source import DataError, SourceParts, file_size, split_by_hash
from latent_ae.data.sources.datasets_library import (
    DatasetConfig,
    choose_splits,
    image_column,
    locate,
    open_stored,
    stored_content,
    stored_file,
    type_name,
    unreadable,
)
from latent_ae.data.sources.folder import files_without_row
from latent_ae.io.image import BrokenImage
from latent_ae.io.image_header import header_size

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}


class HubImages:
    """The image column of rows of one split.

    An id is `SPLIT/ROW`, the row as 8 digits. It stays the same as long as the split holds the same rows in the same
    order; adding rows at its end changes none.
    """

    def __init__(self, dataset: Any, column: str, split: str, rows: Sequence[int], *, whole: Any = None) -> None:
        """`dataset` is a datasets.Dataset whose `column` has undecoded images; `rows` are those of this part, and
        `whole` is the data set with all of its columns.
        """
        self._dataset, self._whole = dataset, whole
        self._column, self._split, self._rows = column, split, rows

    def __len__(self) -> int:
        return len(self._rows)

    def sample_id(self, index: int) -> str:
        """`SPLIT/ROW`."""
        return _row_id(self._split, self._rows[index])

    def load(self, index: int) -> Image.Image:
        """Raises BrokenImage also for a row without an image."""
        return open_stored(self._dataset[int(self._rows[index])][self._column], self.sample_id(index))

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
            return header_size(stored_file(self._dataset[int(self._rows[index])][self._column], sample_id))
        except BrokenImage as error:
            raise BrokenImage(error.reason, sample_id) from error

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, bytes) of every row, without reading the images."""
        sizes = _stored_sizes(self._dataset, self._column)
        return ((self.sample_id(index), sizes[row]) for index, row in enumerate(self._rows))

    def stored_bytes(self, index: int) -> bytes:
        """The image file in a row. Raises BrokenImage, OSError."""
        return stored_content(self._dataset[int(self._rows[index])][self._column], self.sample_id(index))


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


class HubConfig(DatasetConfig):
    """hub: a data set in one of the formats of the `datasets` library."""

    source: Literal["hub"] = "hub"

    has_columns = True

    def open(self) -> SourceParts:
        """Open `data.path`: a parquet or arrow file, a folder of them, of images or of `save_to_disk`, or a hub name.

        A folder or hub name with several configurations takes one of them as `PATH:CONFIGURATION`. A validation or test
        split is held out if there is one (`data.heldout_split` names another), else the rows of the training split
        whose id hashes below `heldout_share`. Only a hub name uses the network. Raises DataError.
        """
        what = f"data.path {self.path}"
        splits = _open_splits(self.path)
        train_name, heldout_name = choose_splits(
            list(splits), train_split=self.train_split, heldout_split=self.heldout_split, what=what
        )
        left_out = _left_out(Path(self.path).expanduser(), splits, self.image_column, what)
        names = [train_name] if heldout_name is None else [train_name, heldout_name]
        images = {name: image_column(splits[name], self.image_column, what) for name in names}
        if heldout_name is None:
            ids = (_row_id(train_name, row) for row in range(len(splits[train_name])))
            train, heldout = split_by_hash(ids, self.heldout_share, f"{what}, split {train_name}")
            places = [(train_name, train.tolist()), (train_name, heldout.tolist())]
        else:
            places = [(name, range(len(splits[name]))) for name in names]
        parts = (HubImages(*images[name], name, rows, whole=splits[name]) for name, rows in places)
        return SourceParts(*parts, left_out=left_out)


def _left_out(folder: Path, splits: dict[str, Any], wanted: str | None, what: str) -> str:
    """The files of a folder of images that are in no row of any split."""
    paths: list[str] = []
    for dataset in splits.values() if folder.is_dir() else ():
        with suppress(DataError):  # a split without images may be one that is not used
            images, column = image_column(dataset, wanted, what)
            for chunk in images.data.column(column).chunks:
                paths += filter(None, chunk.field("path").to_pylist())
    return files_without_row(folder, paths)


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


def _open_splits(path: str) -> dict[str, Any]:
    """Split name -> datasets.Dataset."""
    import datasets  # noqa: PLC0415 - takes seconds, and no other source needs it

    local = Path(path).expanduser()
    try:
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            loaded = datasets.load_from_disk(str(local))
        else:
            place, keywords = locate(path, _TABLES)
            loaded = datasets.load_dataset(place, **keywords)
    except DataError:
        raise
    except Exception as error:  # an empty table is an IndexError, a damaged one an ArrowInvalid, ...
        raise unreadable(path, error) from error
    if isinstance(loaded, datasets.Dataset):
        return {str(loaded.split or "train"): loaded}
    return {str(name): dataset for name, dataset in loaded.items()}


def _row_id(split: str, row: int) -> str:
    return f"{split}/{row:08d}"
