"""Finding data sets, splits and images with the `datasets` library, for the sources `hub` and `stream`."""

import glob
import io
import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latent_ae.data.reading import PICTURES, Loaded, Reading
from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import DataError, LeftOut
from latent_ae.data.sources.files import (
    Files,
    find_files,
    is_address,
    is_pattern,
    join,
    normal,
    opened,
    plain,
    suffix_of,
)
from latent_ae.data.sources.splits import OUTSIDE, folder_splits
from latent_ae.data.sources.tables import is_metadata, no_images
from latent_ae.errors import BrokenImage
from latent_ae.io.image import SUFFIXES
from latent_ae.io.paths import count_by_suffix

TABLE_KINDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
"""the builders of `datasets` for single files, by suffix"""
IMAGES, TARS = "imagefolder", "webdataset"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_CARDS = ("README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
"""files that describe a data set"""


class DatasetConfig(FilesConfig):
    """Settings of both sources."""

    path: str
    """a data set's name at the hub (or NAME:CONFIGURATION), a local parquet, arrow or imagefolder path, a pattern or
    list (.txt) of such files, or an address such as s3://BUCKET/FOLDER; stream reads webdataset tars in order"""
    image_column: str | None = None
    """column of the images; found by its type if there is only one"""


@dataclass(frozen=True)
class Opened:
    """A data set of the `datasets` library that was found but not read."""

    builder: Any
    """datasets.DatasetBuilder"""
    files: Files | None
    """all that lie where the data set does; None for one at the hub"""

    @property
    def kind(self) -> str:
        """What it is made of: parquet, arrow, webdataset, imagefolder, or another builder of `datasets`."""
        return str(self.builder.name)

    @property
    def data_files(self) -> dict[str, list[str]]:
        """The files of each split."""
        return {
            str(name): [str(file) for file in files] for name, files in (self.builder.config.data_files or {}).items()
        }

    @property
    def root(self) -> str:
        """The folder or address of the files, "" at the hub."""
        root = "" if self.files is None else self.files.root
        return root if is_address(root) else str(Path(root).resolve())

    def real_files(self) -> dict[str, frozenset[str]]:
        """The files of each split, links followed."""
        return {name: frozenset(map(_real, files)) for name, files in self.data_files.items()}

    def left_out(self, rows: dict[str, int | None]) -> LeftOut:
        """The files in no split, and image files without a row in the metadata, if the number of `rows` is known."""
        if self.files is None:
            return LeftOut()
        splits = self.data_files
        used = frozenset().union(*self.real_files().values())
        rest = [name for name in self.files.names if _real(self.files.place(name)) not in used]
        rest = [name for name in rest if not is_metadata(name) and posixpath.basename(name) not in _CARDS]
        no_split = (
            OUTSIDE if self.kind == IMAGES else f"in none of the splits {', '.join(splits)} by the names of files"
        )
        left_out = no_images(Path(name) for name in rest if not self.is_of_kind(name))
        left_out += LeftOut({no_split: sum(map(self.is_of_kind, rest))})
        for name, files in splits.items():
            known = rows.get(name)
            if self.kind == IMAGES and known is not None and not any(suffix_of(file) == ".zip" for file in files):
                there = sum(1 for file in files if not is_metadata(file))
                left_out += LeftOut({"without a row in the metadata beside them": max(0, there - known)})
        return left_out

    def is_of_kind(self, name: str) -> bool:
        """Whether a file is one of those that the data set is made of, by its ending."""
        if self.kind == IMAGES:
            return suffix_of(name) in self.builder.EXTENSIONS
        return TABLE_KINDS.get(suffix_of(name)) == self.kind


def open_builder(path: str, setting: str) -> Opened:
    """Find a data set: a folder, file, list, pattern or address, or NAME at the hub (NAME:CONFIGURATION).

    In a folder of images the names of files divide into splits only if every image is in one, else those of folders do.
    Raises DataError.
    """
    import datasets  # noqa: PLC0415 - takes seconds, and few sources need it

    place, configuration = _parted(plain(path))
    try:
        if is_address(place) or is_pattern(place) or (suffix_of(place) == ".txt" and Path(place).is_file()):
            files = find_files(path, setting)
            return _of_files(files, f"{setting} {path}", folder=files.root == normal(place))
        if Path(place).is_file():
            if suffix_of(place) not in TABLE_KINDS:
                name = posixpath.basename(place)
                raise DataError(f"{setting} {path} must be a folder or end in {' or '.join(TABLE_KINDS)}, got {name}")
            builder = datasets.load_dataset_builder(TABLE_KINDS[suffix_of(place)], data_files=place)
            return Opened(builder, find_files(place, setting))
        if Path(place).is_dir():
            files = find_files(place, setting)
            opened = Opened(datasets.load_dataset_builder(place, name=configuration), files)
            if configuration or _divides(opened, place):
                return opened
            patterns = _folder_patterns([name for name in files.names if opened.is_of_kind(name)])
            return Opened(datasets.load_dataset_builder(place, data_files=patterns), files)
        if not _HUB_NAME.fullmatch(path):
            raise DataError(f"{setting} {path} does not exist (from {Path.cwd()}), and is not a hub name (OWNER/NAME)")
        return Opened(datasets.load_dataset_builder(place, name=configuration), None)
    except DataError:
        raise
    except Exception as error:  # datasets' own are of many kinds
        raise unreadable(path, error) from error


def refuse_shared(train: frozenset[str], heldout: frozenset[str], heldout_path: str) -> None:
    """Raises DataError if files are both trained on and held out."""
    if shared := sorted(train & heldout):
        more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise DataError(
            f"data.heldout_path {heldout_path}: {shared[0]}{more} would be trained on too: take it out there"
        )


def _of_files(files: Files, what: str, *, folder: bool) -> Opened:
    """A data set of files that `datasets` does not find by itself; with `folder`, of all at one address."""
    import datasets  # noqa: PLC0415
    from datasets.data_files import get_data_patterns  # noqa: PLC0415

    found = Counter(kind for name in files.names if (kind := _kind(name)) is not None)
    if not found:
        there = count_by_suffix(map(Path, files.names)) or "nothing"
        raise DataError(f"{what} holds no files of images that are read here: there is {there}")
    kind = max(found, key=lambda kind: (kind != IMAGES, found[kind]))
    names = [name for name in files.names if _kind(name) == kind]
    if folder:
        patterns = _folder_patterns(names) if kind == IMAGES else get_data_patterns(files.root)
        data_files = {str(split): [join(files.root, each) for each in few] for split, few in patterns.items()}
    else:
        splits = folder_splits(names).splits.items()
        data_files = {split: [glob.escape(files.place(name)) for name in few] for split, few in splits}
    return Opened(datasets.load_dataset_builder(kind, data_files=data_files), files)


def _divides(opened: Opened, place: str) -> bool:
    """Whether the splits of `datasets` have every image of a folder once, or are those of its README.md."""
    if opened.kind != IMAGES or opened.files is None:
        return True
    with suppress(OSError, UnicodeDecodeError):
        if "data_files:" in Path(place, "README.md").read_text(encoding="utf-8"):
            return True
    used = [file for files in opened.data_files.values() for file in files]
    there = {_real(opened.files.place(name)) for name in opened.files.names if opened.is_of_kind(name)}
    return len(used) == len(set(used)) and there <= {_real(file) for file in used}


def _folder_patterns(images: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split of a folder of images, by its folders alone."""
    found = folder_splits(images)
    if found.depth is None:
        return {"train": ["**"]}
    above = "*/" * found.depth
    return {split: [f"{above}{folder}/**" for folder in folders] for split, folders in found.folders.items()}


def _kind(name: str) -> str | None:
    suffix = suffix_of(name)
    return IMAGES if suffix in SUFFIXES else TABLE_KINDS.get(suffix)


def _real(file: str) -> str:
    return file if is_address(file) else os.path.realpath(file)


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


def open_stored(
    stored: dict[str, Any] | None, sample_id: str, reading: Reading = PICTURES, page: int | None = None
) -> Loaded:
    """The image in a row's undecoded image column. Raises BrokenImage, also for a row without an image."""
    try:
        return reading.load(stored_file(stored, sample_id), page)
    except BrokenImage as error:
        raise BrokenImage(error.reason, sample_id) from error


def has_lists(dataset: Any, column: str) -> bool:
    """Whether a column of `image_column` has a list of images in each row."""
    feature = dataset.features[column]
    return _in_list(feature) is not feature


def images_of_row(content: Any, reading: Reading) -> list[tuple[int | None, int | None]]:
    """(place in the list, page) of each image of a row: those of one image are (None, None)."""
    if not isinstance(content, list) and reading.pages != "all":
        return [(None, None)]
    found: list[tuple[int | None, int | None]] = []
    for place, each in enumerate(content if isinstance(content, list) else [content]):
        try:
            pages = reading.pages_of(stored_file(each, ""))
        except BrokenImage:
            pages = [None]
        found += [(place if isinstance(content, list) else None, page) for page in pages]
    return found


def stored_content(stored: dict[str, Any] | None, sample_id: str) -> bytes:
    """The image file in a row's undecoded image column. Raises BrokenImage, OSError."""
    file = stored_file(stored, sample_id)
    return file.read_bytes() if isinstance(file, Path) else file.getvalue()


def image_column(dataset: Any, wanted: str | None, what: str, keep: Sequence[str | None] = ()) -> tuple[Any, str]:
    """The data set with only its image column, of undecoded images, and the column's name.

    A row may have one image or a list of them. `wanted` may also be a column with the bytes of image files. The columns
    `keep` are kept where they exist. Raises DataError if `wanted` holds no images or, if it is None, unless exactly one
    column does; the message lists the columns.
    """
    import datasets  # noqa: PLC0415

    # The features of a streamed text format (csv, json) are only known once it has been read.
    features = dataset.features or dict.fromkeys(next(iter(dataset), {}))
    listing = ", ".join(f"{name} ({type_name(feature)})" for name, feature in features.items())
    found = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    found = found or [name for name, feature in features.items() if _holds_images(feature)]
    of_bytes = [name for name, feature in features.items() if _holds_bytes(_in_list(feature))]
    if wanted is not None and wanted not in (*found, *of_bytes):
        problem = "is no column" if wanted not in features else "does not hold images"
        raise DataError(f"{what}: data.image_column {wanted} {problem}; its columns are {listing}")
    if wanted is None and len(found) != 1:
        choice = found or of_bytes  # bytes may be anything: they are images only if the user names them
        advice = f": name one as data.image_column ({', '.join(choice)})" if choice else ""
        raise DataError(f"{what}: {len(found) or 'no'} columns hold images{advice}; its columns are {listing}")
    column = wanted or found[0]
    kept = [column, *(name for name in keep if name in features and name != column)]
    # Undecoded, so that open_image decodes them and a broken image concerns its row alone.
    undecoded: Any = datasets.Image(decode=False)
    undecoded = undecoded if _in_list(features[column]) is features[column] else datasets.List(undecoded)
    return dataset.with_format(None).select_columns(kept).cast_column(column, undecoded), column


def stored_file(stored: dict[str, Any] | None, sample_id: str) -> Path | io.BytesIO:
    """The image file of a row's undecoded image column. Raises BrokenImage."""
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        raise BrokenImage("the row holds no image", sample_id)
    if stored["bytes"] is not None:
        return io.BytesIO(stored["bytes"])
    try:
        return opened(stored["path"])  # at the hub or in an archive
    except BrokenImage as error:
        raise BrokenImage(error.reason, sample_id) from error


def _parted(path: str) -> tuple[str, str | None]:
    """A folder or hub name, and the configuration after a colon, if any."""
    place, colon, configuration = path.rpartition(":")
    if not colon or is_address(path) or Path(path).expanduser().exists():
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


def _holds_images(feature: Any) -> bool:
    """Whether a column has images as `datasets` or other writers (a struct of bytes and path) store them, or lists."""
    import datasets  # noqa: PLC0415

    inner = _in_list(feature)
    if isinstance(inner, dict):
        return "bytes" in inner and inner.keys() <= {"bytes", "path"} and _holds_bytes(inner["bytes"])
    return isinstance(inner, datasets.Image)


def _in_list(feature: Any) -> Any:
    """The type of the values in a column of lists; that of another column itself."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def class_names(feature: Any, values: Sequence[Any]) -> list[Any]:
    """The values of a column, those of a column of classes by their names."""
    names = getattr(feature, "names", None)
    return [names[value] if names and value is not None else value for value in values]


def type_name(feature: Any) -> str:
    """The type of a column, for people."""
    if feature is None:
        return "of unknown type"
    kind = type(feature).__name__
    return f"{kind} {feature.dtype}" if kind == "Value" else kind
