"""Data sets in the formats of the `datasets` library: on the disk, or by name from the Hugging Face hub."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
from PIL import Image

from latent_ae.config import DataConfig
from latent_ae.data.source import DataError, SourceParts, file_size, split_by_hash
from latent_ae.data.sources.folder import files_without_row
from latent_ae.io.image import BrokenImage, open_image
from latent_ae.io.image_header import header_size

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


class HubImages:
    """The image column of rows of one split.

    An id is `SPLIT/ROW`, the row as 8 digits. It stays the same as long as the split holds the same rows in the same
    order; adding rows at its end changes none.
    """

    def __init__(self, dataset: Any, column: str, split: str, rows: Sequence[int], *, whole: Any = None) -> None:
        """`dataset` is a datasets.Dataset whose `column` gives undecoded images; `rows` are those of this part, and
        `whole` is the same data set with all of its columns.
        """
        self._dataset = dataset
        self._whole = whole
        self._column = column
        self._split = split
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def sample_id(self, index: int) -> str:
        """`SPLIT/ROW`."""
        return _row_id(self._split, self._rows[index])

    def load(self, index: int) -> Image.Image:
        """Raises BrokenImage also for a row without an image."""
        return open_stored(self._dataset[int(self._rows[index])][self._column], self.sample_id(index))

    def column(self, name: str) -> "HubColumn":
        """What another column holds for the images. Raises DataError if there is none of that name."""
        features = {} if self._whole is None else self._whole.features
        if name not in features:
            listing = ", ".join(f"{each} ({_type_name(feature)})" for each, feature in features.items())
            raise DataError(f"{name} is no column of split {self._split}; its columns are {listing}")
        return HubColumn(self._whole.with_format(None).select_columns([name]), name, self._rows)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the upright image, from its header. Raises BrokenImage."""
        sample_id = self.sample_id(index)
        try:
            return header_size(_stored_file(self._dataset[int(self._rows[index])][self._column], sample_id))
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
    """Values of a column by the index of the image that they belong to."""

    def __init__(self, dataset: Any, name: str, rows: Sequence[int]) -> None:
        self._dataset = dataset
        self._name = name
        self._rows = rows
        self.class_names: tuple[str, ...] = tuple(getattr(dataset.features[name], "names", None) or ())
        """of the numbers in a column of classes"""

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._rows[index])][self._name]


def build(config: DataConfig) -> SourceParts:
    """Open `data.path`: a parquet or arrow file, a folder of them, of images or of `save_to_disk`, or a hub name.

    A folder or hub name with several configurations takes one of them as `PATH:CONFIGURATION`. A validation or test
    split is held out where there is one (`data.heldout_split` names another), else the rows of the training split
    whose id hashes below `heldout_share`. Only a hub name uses the network. Raises DataError.
    """
    what = f"data.path {config.path}"
    splits = _open_splits(str(config.path))
    train_name, heldout_name = choose_splits(
        list(splits), train_split=config.train_split, heldout_split=config.heldout_split, what=what
    )
    left_out = _left_out(Path(str(config.path)).expanduser(), splits, config.image_column, what)
    if heldout_name is None:
        return replace(_split_in_two(splits[train_name], config, train_name, what), left_out=left_out)
    train, heldout = (
        HubImages(
            *image_column(splits[name], config.image_column, what),
            name,
            range(len(splits[name])),
            whole=splits[name],
        )
        for name in (train_name, heldout_name)
    )
    return SourceParts(train, heldout, left_out=left_out)


def _left_out(folder: Path, splits: dict[str, Any], wanted: str | None, what: str) -> str:
    """The files of a folder of images that became no row of any split."""
    paths: list[str] = []
    for dataset in splits.values() if folder.is_dir() else ():
        with suppress(DataError):  # a split without images, which may not be asked for
            images, column = image_column(dataset, wanted, what)
            for chunk in images.data.column(column).chunks:
                paths += filter(None, chunk.field("path").to_pylist())
    return files_without_row(folder, paths)


def choose_splits(
    names: Sequence[str], *, train_split: str | None, heldout_split: str | None, what: str
) -> tuple[str, str | None]:
    """The names of the training split and of the held-out one, None if a share of the training split has to do.

    Unset, they are "train" (or the only split) and "validation" or else "test". `what` names the data in errors.
    Raises DataError for a name that is not there.
    """
    train_name = train_split or (names[0] if len(names) == 1 else "train")
    if train_name not in names:
        setting = "data.train_split" if train_split else "data.train_split (unset, so)"
        raise DataError(f"{what}: {setting} {train_name} is not among its splits: {', '.join(names)}")
    others = [name for name in ("validation", "test") if name in names and name != train_name]
    heldout_name = heldout_split or (others[0] if others else None)
    if heldout_name is not None and heldout_name not in names:
        raise DataError(f"{what}: data.heldout_split {heldout_name} is not among its splits: {', '.join(names)}")
    if heldout_name == train_name:
        raise DataError(
            f"{what}: the training split {train_name} is also data.heldout_split: name another or leave out"
        )
    return train_name, heldout_name


def locate(path: str, tables: dict[str, str]) -> tuple[str, dict[str, str]]:
    """What `datasets.load_dataset` has to be called with for a `data.path`: its `path`, and further keywords.

    `tables` are the builders of single files by their suffix. Raises DataError if `path` can be neither here nor on
    the hub.
    """
    place, configuration = _parted(path)
    local = Path(place).expanduser()
    if local.is_file():
        if local.suffix not in tables:
            raise DataError(f"data.path {path} must be a folder or end in {' or '.join(tables)}, got {local.name}")
        return tables[local.suffix], {"data_files": str(local)}
    if not local.is_dir() and not _HUB_NAME.fullmatch(path):
        raise DataError(f"data.path {path} does not exist (from {Path.cwd()}), and is not a hub name (OWNER/NAME)")
    return str(local) if local.is_dir() else place, {"name": configuration} if configuration else {}


def unreadable(path: str, error: Exception) -> DataError:
    """What to tell about `error`, which `datasets` raised for a `data.path`."""
    import datasets  # noqa: PLC0415

    place, configuration = _parted(path)
    local = Path(place).expanduser()
    cause = error.__cause__ or error  # datasets wraps what went wrong in "an error occurred"
    if isinstance(cause, ValueError) and "Config" in str(cause) and not local.is_file():
        with suppress(Exception):  # then it was about something else
            names = datasets.get_dataset_config_names(str(local) if local.is_dir() else place)
            listing = ", ".join(names)
            if configuration is None and len(names) > 1:
                return DataError(
                    f"data.path {path} has several configurations, name one ({place}:{names[0]}): they are {listing}"
                )
            if configuration is not None and configuration not in names:
                return DataError(f"data.path {path}: {configuration} is not among its configurations: {listing}")
    return DataError(_unreadable(path, local, cause))


def open_stored(stored: dict[str, Any] | None, sample_id: str) -> Image.Image:
    """The image in a row's undecoded image column. Raises BrokenImage, also for a row without an image."""
    try:
        return open_image(_stored_file(stored, sample_id))
    except BrokenImage as error:
        raise BrokenImage(error.reason, sample_id) from error


def stored_content(stored: dict[str, Any] | None, sample_id: str) -> bytes:
    """The image file in a row's undecoded image column. Raises BrokenImage, OSError."""
    file = _stored_file(stored, sample_id)
    return file.read_bytes() if isinstance(file, Path) else file.getvalue()


def _stored_sizes(dataset: Any, column: str) -> list[int]:
    """Bytes of the images in the rows of a data set; -1 where nobody knows. Reads the offsets between them alone."""
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


def _stored_file(stored: dict[str, Any] | None, sample_id: str) -> Path | io.BytesIO:
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        raise BrokenImage("the row holds no image", sample_id)
    if stored["bytes"] is not None:
        return io.BytesIO(stored["bytes"])
    if "://" not in stored["path"]:
        return Path(stored["path"])
    try:
        with fsspec.open(stored["path"]) as file:  # at the hub or in an archive
            return io.BytesIO(file.read())
    except (OSError, KeyError) as error:  # a zip without the file is a KeyError
        raise BrokenImage(f"{type(error).__name__}: {error}", sample_id) from error


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


def _parted(path: str) -> tuple[str, str | None]:
    """A folder or hub name, and the configuration behind a colon, if any."""
    place, colon, configuration = path.rpartition(":")
    if not colon or Path(path).expanduser().exists():
        return path, None
    return place, configuration


def _unreadable(path: str, local: Path, cause: BaseException) -> str:
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    if local.exists():
        return f"data.path {path} cannot be read as a data set of images: {reason}"
    return (
        f"data.path {path} does not exist here, and could not be had from the hub by that name: {reason}: "
        "check the spelling and the network, or give a local path"
    )


def _split_in_two(dataset: Any, config: DataConfig, split: str, what: str) -> SourceParts:
    images, column = image_column(dataset, config.image_column, what)
    ids = (_row_id(split, row) for row in range(len(images)))
    train, heldout = split_by_hash(ids, config.heldout_share, f"{what}, split {split}")
    return SourceParts(
        *(HubImages(images, column, split, rows.tolist(), whole=dataset) for rows in (train, heldout)),
    )


def image_column(dataset: Any, wanted: str | None, what: str, keep: Sequence[str] = ()) -> tuple[Any, str]:
    """The data set cut to its image column, which gives undecoded images, and the column's name.

    `wanted` may also be a column of bytes, which have to be those of image files. The columns `keep` stay too, those of
    them that there are. Raises DataError if `wanted` holds no images or, where it is None, if not just one column does;
    the message lists the columns.
    """
    import datasets  # noqa: PLC0415

    # The features of a streamed text format (csv, json) are only known once it has been read.
    features = dataset.features or dict.fromkeys(next(iter(dataset), {}))
    listing = ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    of_bytes = [name for name, feature in features.items() if _holds_bytes(feature)]
    if wanted is not None and wanted not in (*found, *of_bytes):
        problem = "is no column" if wanted not in features else "does not hold images"
        raise DataError(f"{what}: data.image_column {wanted} {problem}; its columns are {listing}")
    if wanted is None and len(found) != 1:
        choice = found or of_bytes  # bytes may be anything, and are images only if the user says so
        advice = f": name one as data.image_column ({', '.join(choice)})" if choice else ""
        raise DataError(f"{what}: {len(found) or 'no'} columns hold images{advice}; its columns are {listing}")
    column = wanted or found[0]
    kept = [column, *(name for name in keep if name in features)]
    # Undecoded, so that open_image does the decoding and a broken image is met one at a time.
    return dataset.with_format(None).select_columns(kept).cast_column(column, datasets.Image(decode=False)), column


def _holds_bytes(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _type_name(feature: Any) -> str:
    if feature is None:
        return "of unknown type"
    kind = type(feature).__name__
    return f"{kind} {feature.dtype}" if kind == "Value" else kind


def _row_id(split: str, row: int) -> str:
    return f"{split}/{row:08d}"
