"""Finding the files and splits of a data set with the `datasets` library, for the sources `hub` and `stream`."""

import glob
import os
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import DataError, LeftOut
from latent_ae.data.sources.files import Files, find_files, is_address, is_pattern, join, normal, plain, suffix_of
from latent_ae.data.sources.splits import OUTSIDE, folder_splits
from latent_ae.data.sources.tables import is_metadata, no_images
from latent_ae.io.image import SUFFIXES
from latent_ae.io.paths import count_by_suffix

TABLE_KINDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
"""the builders of `datasets` for single files, by suffix"""
IMAGES, TARS = "imagefolder", "webdataset"
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_SPLIT_FOLDER = re.compile(
    r"(?:^|[-._ 0-9/])(?:train|training|val|valid|validation|dev|test|testing|eval|evaluation)(?:$|[-._ 0-9/])"
)
"""what `datasets` takes for a folder of a split"""
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

    @cached_property
    def real_files(self) -> dict[str, frozenset[str]]:
        """The files of each split, links followed."""
        return {name: frozenset(map(_real, files)) for name, files in self.data_files.items()}

    def left_out(self, rows: dict[str, int | None]) -> LeftOut:
        """The files in no split, and image files without a row in the metadata, if the number of `rows` is known."""
        if self.files is None:
            return LeftOut()
        splits = self.data_files
        used = frozenset().union(*self.real_files.values())
        rest = [name for name in self.files.names if _real(self.files.place(name)) not in used]
        rest = [name for name in rest if not is_metadata(name) and posixpath.basename(name) not in _CARDS]
        no_split = OUTSIDE if self.kind == IMAGES else f"in none of the splits {', '.join(splits)}, by their names"
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
    """Whether the splits of `datasets` are those of folders or of a README.md, or have every image of a folder once."""
    if opened.kind != IMAGES or opened.files is None:
        return True
    with suppress(OSError, UnicodeDecodeError):
        if "data_files:" in Path(place, "README.md").read_text(encoding="utf-8"):
            return True
    used = [file for files in opened.data_files.values() for file in files]
    once, above = len(used) == len(set(used)), f"{opened.root}/"
    if once and all(_SPLIT_FOLDER.search(posixpath.dirname(file.removeprefix(above))) for file in used):
        return True
    there = {_real(opened.files.place(name)) for name in opened.files.names if opened.is_of_kind(name)}
    return once and there <= {_real(file) for file in used}


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
