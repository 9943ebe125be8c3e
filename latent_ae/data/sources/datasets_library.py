"""What the sources `hub` and `stream` share: how the `datasets` library finds a data set, its splits and images."""

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import fsspec
from PIL import Image
from pydantic import model_validator

from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import DataError
from latent_ae.io.image import BrokenImage, open_image

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")


class DatasetConfig(FilesConfig):
    """What the two sources have in common."""

    path: str
    """a data set's name at the hub (or NAME:CONFIGURATION), or a local parquet, arrow or imagefolder path; stream also
    webdataset tars"""
    image_column: str | None = None
    """the column that holds the images; found by its type if there is just one"""
    train_split: str | None = None
    """split to train on; the data set's "train" unless named"""
    heldout_split: str | None = None
    """split to hold out; the data set's "validation" or "test", or else a share of the training split"""

    @model_validator(mode="after")
    def _share_has_effect(self) -> Self:
        if self.heldout_split is not None and "heldout_share" in self.model_dump(exclude_defaults=True):
            raise ValueError("data.heldout_share has no effect with data.heldout_split: leave out one of them")
        return self


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
        return open_image(stored_file(stored, sample_id))
    except BrokenImage as error:
        raise BrokenImage(error.reason, sample_id) from error


def stored_content(stored: dict[str, Any] | None, sample_id: str) -> bytes:
    """The image file in a row's undecoded image column. Raises BrokenImage, OSError."""
    file = stored_file(stored, sample_id)
    return file.read_bytes() if isinstance(file, Path) else file.getvalue()


def image_column(dataset: Any, wanted: str | None, what: str, keep: Sequence[str] = ()) -> tuple[Any, str]:
    """The data set cut to its image column, which gives undecoded images, and the column's name.

    `wanted` may also be a column of bytes, which have to be those of image files. The columns `keep` stay too, those of
    them that there are. Raises DataError if `wanted` holds no images or, where it is None, if not just one column does;
    the message lists the columns.
    """
    import datasets  # noqa: PLC0415

    # The features of a streamed text format (csv, json) are only known once it has been read.
    features = dataset.features or dict.fromkeys(next(iter(dataset), {}))
    listing = ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())
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


def stored_file(stored: dict[str, Any] | None, sample_id: str) -> Path | io.BytesIO:
    """The image file of a row's undecoded image column. Raises BrokenImage."""
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


def _holds_bytes(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def type_name(feature: Any) -> str:
    """The type of a column, for people."""
    if feature is None:
        return "of unknown type"
    kind = type(feature).__name__
    return f"{kind} {feature.dtype}" if kind == "Value" else kind
