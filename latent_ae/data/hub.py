"""Data sets in the formats of the `datasets` library: on the disk, or by name from the Hugging Face hub."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from latent_ae.config import DataConfig
from latent_ae.data.source import DataError, SourceParts, split_by_hash
from latent_ae.image import BrokenImage, open_image

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class HubImages:
    """The image column of rows of one split.

    An id is `SPLIT/ROW`, the row as 8 digits. It stays the same as long as the split holds the same rows in the same
    order; adding rows at its end changes none.
    """

    def __init__(self, dataset: Any, column: str, split: str, rows: Sequence[int]) -> None:
        """`dataset` is a datasets.Dataset whose `column` gives undecoded images; `rows` are those of this part."""
        self._dataset = dataset
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
        stored = self._dataset[int(self._rows[index])][self._column]
        if stored is None or (stored["bytes"] is None and stored["path"] is None):
            raise BrokenImage("the row holds no image", self.sample_id(index))
        try:
            return open_image(Path(stored["path"]) if stored["bytes"] is None else io.BytesIO(stored["bytes"]))
        except BrokenImage as error:
            raise BrokenImage(error.reason, self.sample_id(index)) from error


def build(config: DataConfig) -> SourceParts:
    """Open `data.path`: a parquet or arrow file, a folder of them, of images or of `save_to_disk`, or a hub name.

    A validation or test split is held out where there is one (`data.heldout_split` names another), else the rows of
    the training split whose id hashes below `heldout_share`. Only a hub name uses the network. Raises DataError.
    """
    what = f"data.path {config.path}"
    splits = _open_splits(str(config.path))
    names = list(splits)
    train_name = config.train_split or (names[0] if len(names) == 1 else "train")
    if train_name not in names:
        setting = "data.train_split" if config.train_split else "data.train_split (unset, so)"
        raise DataError(f"{what}: {setting} {train_name} is not among its splits: {', '.join(names)}")
    others = [name for name in ("validation", "test") if name in names and name != train_name]
    heldout_name = config.heldout_split or (others[0] if others else None)
    if heldout_name is None:
        return _split_in_two(splits[train_name], config, train_name, what)
    if heldout_name not in names:
        raise DataError(f"{what}: data.heldout_split {heldout_name} is not among its splits: {', '.join(names)}")
    if heldout_name == train_name:
        raise DataError(
            f"{what}: the training split {train_name} is also data.heldout_split: name another or leave out"
        )
    train, heldout = (
        HubImages(*_image_column(splits[name], config.image_column, what), name, range(len(splits[name])))
        for name in (train_name, heldout_name)
    )
    return SourceParts(train, heldout)


def _open_splits(path: str) -> dict[str, Any]:
    """Split name -> datasets.Dataset."""
    import datasets  # noqa: PLC0415 - takes seconds, and no other source needs it

    local = Path(path).expanduser()
    try:
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            loaded = datasets.load_from_disk(str(local))
        elif local.is_dir():
            loaded = datasets.load_dataset(str(local))
        elif local.is_file():
            if local.suffix not in _TABLES:
                raise DataError(f"data.path {path} must be a folder or end in {' or '.join(_TABLES)}, got {local.name}")
            loaded = datasets.load_dataset(_TABLES[local.suffix], data_files=str(local))
        elif _HUB_NAME.fullmatch(path):
            loaded = datasets.load_dataset(path)
        else:
            raise DataError(f"data.path {path} does not exist (from {Path.cwd()}), and is not a hub name (OWNER/NAME)")
    except DataError:
        raise
    except Exception as error:  # an empty table is an IndexError, a damaged one an ArrowInvalid, ...
        raise DataError(_unreadable(path, local, error)) from error
    if isinstance(loaded, datasets.Dataset):
        return {str(loaded.split or "train"): loaded}
    return {str(name): dataset for name, dataset in loaded.items()}


def _unreadable(path: str, local: Path, error: Exception) -> str:
    cause = error.__cause__ or error  # datasets wraps what went wrong in "an error occurred"
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    if local.exists():
        return f"data.path {path} cannot be read as a data set of images: {reason}"
    return (
        f"data.path {path} does not exist here, and could not be had from the hub by that name: {reason}: "
        "check the spelling and the network, or give a local path"
    )


def _split_in_two(dataset: Any, config: DataConfig, split: str, what: str) -> SourceParts:
    images, column = _image_column(dataset, config.image_column, what)
    ids = (_row_id(split, row) for row in range(len(images)))
    train, heldout = split_by_hash(ids, config.heldout_share, f"{what}, split {split}")
    return SourceParts(
        HubImages(images, column, split, train.tolist()), HubImages(images, column, split, heldout.tolist())
    )


def _image_column(dataset: Any, wanted: str | None, what: str) -> tuple[Any, str]:
    """The data set cut to its image column, which gives undecoded images, and the column's name."""
    import datasets  # noqa: PLC0415

    features = dataset.features
    listing = ", ".join(f"{name} ({_type_name(feature)})" for name, feature in features.items())
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if wanted is not None and wanted not in found:
        problem = "is no column" if wanted not in features else "does not hold images"
        raise DataError(f"{what}: data.image_column {wanted} {problem}; its columns are {listing}")
    if wanted is None and len(found) != 1:
        raise DataError(f"{what}: {len(found)} columns hold images, name one as data.image_column; they are {listing}")
    column = wanted or found[0]
    # Undecoded, so that open_image does the decoding and a broken image is met one at a time.
    return dataset.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False)), column


def _type_name(feature: Any) -> str:
    kind = type(feature).__name__
    return f"{kind} {feature.dtype}" if kind == "Value" else kind


def _row_id(split: str, row: int) -> str:
    return f"{split}/{row:08d}"
