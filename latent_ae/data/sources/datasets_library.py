"""Finding data sets, splits and images with the `datasets` library, for the sources `hub` and `stream`."""

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
    """Settings of both sources."""

    path: str
    """a data set's name at the hub (or NAME:CONFIGURATION), or a local parquet, arrow or imagefolder path; stream also
    webdataset tars"""
    image_column: str | None = None
    """column of the images; found by its type if there is only one"""
    train_split: str | None = None
    """split to train on, "train" by default"""
    heldout_split: str | None = None
    """split to hold out; default: "validation" or "test", or else a share of the training split"""

    @model_validator(mode="after")
    def _share_has_effect(self) -> Self:
        if self.heldout_split is not None and "heldout_share" in self.model_dump(exclude_defaults=True):
            raise ValueError("data.heldout_share has no effect with data.heldout_split: leave out one of them")
        return self


def choose_splits(
    names: Sequence[str], *, train_split: str | None, heldout_split: str | None, what: str
) -> tuple[str, str | None]:
    """Names of the training split and of the held-out split, None if a share of the training split is held out.

    Defaults are "train" (or the only split) and "validation" or else "test". `what` names the data in errors. Raises
    DataError for a name that does not exist.
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
    """The `path` and the keywords of `datasets.load_dataset` for a `data.path`.

    `tables` has the builders of single files by suffix. Raises DataError if `path` neither exists nor is a hub name.
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
    """A DataError for an error of `datasets` with a `data.path`."""
    import datasets  # noqa: PLC0415

    place, configuration = _parted(path)
    local = Path(place).expanduser()
    cause = error.__cause__ or error  # datasets wraps what went wrong in "an error occurred"
    if isinstance(cause, ValueError) and "Config" in str(cause) and not local.is_file():
        with suppress(Exception):  # then the error has another cause
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
    """The data set with only its image column, of undecoded images, and the column's name.

    `wanted` may also be a column with the bytes of image files. The columns `keep` are kept where they exist. Raises
    DataError if `wanted` holds no images or, if it is None, unless exactly one column does; the message lists the
    columns.
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
        choice = found or of_bytes  # bytes may be anything: they are images only if the user names them
        advice = f": name one as data.image_column ({', '.join(choice)})" if choice else ""
        raise DataError(f"{what}: {len(found) or 'no'} columns hold images{advice}; its columns are {listing}")
    column = wanted or found[0]
    kept = [column, *(name for name in keep if name in features)]
    # Undecoded, so that open_image decodes them and a broken image concerns its row alone.
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
    """A folder or hub name, and the configuration after a colon, if any."""
    place, colon, configuration = path.rpartition(":")
    if not colon or Path(path).expanduser().exists():
        return path, None
    return place, configuration


def _unreadable(path: str, local: Path, cause: BaseException) -> str:
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    if local.exists():
        return f"data.path {path} cannot be read as a data set of images: {reason}"
    return (
        f"data.path {path} does not exist here, and could not be loaded from the hub by that name: {reason}: "
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
