"""The source `folder`: image files, in a tree or named by a list, a table or a pattern."""

import os
import posixpath
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from latent_ae.data.grid import GridConfig
from latent_ae.data.reading import Reading
from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import DataError, LeftOut, SourceParts, split_by_hash
from latent_ae.data.sources.files import (
    Files,
    content,
    exists,
    find_files,
    is_address,
    is_pattern,
    listed,
    plain,
    suffix_of,
)
from latent_ae.data.sources.folder_images import FolderImages
from latent_ae.data.sources.splits import (
    HELDOUT,
    HELDOUT_PREFIX,
    OUTSIDE,
    FolderSplits,
    choose,
    folder_splits,
    rows_by_split,
    unused_split,
)
from latent_ae.data.sources.tables import (
    LABEL_COLUMN,
    PATH_COLUMNS,
    SPLIT_COLUMN,
    TABLES,
    Row,
    as_numbers,
    by_name,
    is_metadata,
    no_images,
    read_table,
)
from latent_ae.io.paths import count_by_suffix

REPEATED = "named by more than one line of the list"
"""the reason why a line of a list adds no image"""


@dataclass(frozen=True)
class _Found:
    """The images of a path, and what else is there."""

    files: Files
    images: list[str]
    """names, sorted"""
    rows: dict[str, Row]
    """of the table or metadata, by the name of the image"""
    others: LeftOut
    """files that are no images, and the like"""

    def is_below(self, other: "_Found") -> bool:
        """Whether all of it lies in the other's folder, or is the same."""
        return self.files.place("").startswith(other.files.place(""))

    @property
    def has_labels(self) -> bool:
        """Whether the rows have labels."""
        return any(row.get(LABEL_COLUMN) not in (None, "") for row in self.rows.values())

    def rows_of(self, names: list[str]) -> list[Row] | None:
        """The row of each image; None without a table."""
        return [self.rows.get(name, {}) for name in names] if self.rows else None

    def without(self, other: "_Found") -> "_Found":
        """Without the images that are also in another place."""
        taken = {os.path.realpath(other.files.place(name)) for name in other.images}
        rest = [name for name in self.images if os.path.realpath(self.files.place(name)) not in taken]
        return replace(self, images=rest)

    def splits(self, column: str | None, what: str) -> FolderSplits:
        """Images by split: of a column, or else of folders. Raises DataError for a column that is missing."""
        named = column or SPLIT_COLUMN
        values = {name: str(row[named]) for name, row in self.rows.items() if row.get(named) not in (None, "")}
        if not values and column is not None:
            raise DataError(f"{what}: data.split_column {column} is in no table or metadata of the images")
        found = folder_splits(self.images)
        if values:
            rows = rows_by_split([values.get(name) for name in self.images])
            splits = {split: [self.images[row] for row in few] for split, few in rows.items()}
            found = replace(found, splits=splits, outside=[])
        # What is only there to validate and test on is never trained on.
        return found if found.splits.keys() - HELDOUT else replace(found, splits={"train": [], **found.splits})

    def classes(self, names: list[str], depth: int | None) -> list[Any]:
        """Of each image: its label in the table, or else the top folder, not counting that of a split at `depth`."""
        if self.has_labels:
            return [self.rows.get(name, {}).get(LABEL_COLUMN) for name in names]
        above = [name.split("/")[:-1] for name in names]
        above = [[*path[:depth], *path[depth + 1 :]] for path in above] if depth is not None else above
        return [path[0] if path else None for path in above]


class FolderConfig(GridConfig, FilesConfig):
    """folder: image files."""

    source: Literal["folder"] = "folder"
    path: str
    """a tree of images, a pattern (DIR/**/*.png), a file list (.txt), a table (.csv, .jsonl) or an s3:// address"""
    path_column: str | None = None
    """column of a table with the paths of the images; by default file_name, path, file, filename or image"""

    has_columns = True

    def open(self) -> SourceParts:
        """Images sorted by their path below the folder.

        Those of `heldout_path` are held out, or else of the split validation or test, or else those whose path hashes
        below `heldout_share`. Splits are those of a column, or folders. Raises DataError.
        """
        what = f"data.path {self.path}"
        found = apart = self._find(self.path, "data.path")
        if self.heldout_path is not None:
            apart = self._find(self.heldout_path, "data.heldout_path")
            found = found.without(apart)
        splits = found.splits(self.split_column, what)
        train, heldout, unused = choose(splits.splits, self, what)
        if self.heldout_path is not None:
            heldout = apart.images
        elif heldout is None and self.cuts and len(train) == 1:
            heldout = train  # of which each part gets cells
        elif heldout is None:
            parts = split_by_hash(train, self.heldout_share, what)
            train, heldout = ([train[index] for index in part] for part in parts)
        images = _parts(found, train, apart, heldout, depth=splits.depth, reading=self.reading)
        used = dict.fromkeys([*map(found.files.place, train), *map(apart.files.place, heldout)])
        left_out = found.others + (LeftOut() if apart.is_below(found) else apart.others)
        left_out += LeftOut(
            {OUTSIDE: len(splits.outside), **{unused_split(name): len(unused[name]) for name in unused}}
        )
        left_out += self.reading.further_pages(Path(place) for place in used if not is_address(place))
        return self.cut(
            SourceParts(*images, left_out=left_out, unused=tuple(unused)),
            self.heldout_share,
            numbers=self.reads_numbers,
        )

    def _find(self, path: str, setting: str) -> _Found:
        """The images of a path with their rows. Raises DataError."""
        what, place = f"{setting} {path}", plain(path)
        if suffix_of(place) in TABLES and not is_pattern(place) and exists(place):
            files, rows = self._table(place, what)
        else:
            files = find_files(path, setting)
            rows = _metadata(files)
        is_image = self.reading.is_image
        images = [name for name in files.names if is_image(name)]
        if not images:
            count = len(files.names)
            there = f"its {count} files end in {count_by_suffix(map(Path, files.names))}" if count else "it is empty"
            raise DataError(f"{what} holds no images: {there}; images end in {', '.join(self.reading.suffixes)}")
        beside = {name for name in files.names if is_metadata(name)}
        beside |= {posixpath.splitext(name)[0] + ".txt" for name in images}
        others = [Path(name) for name in files.names if name not in beside and not is_image(name)]
        return _Found(files, images, rows, no_images(others) + LeftOut({REPEATED: files.repeated}))

    def _table(self, place: str, what: str) -> tuple[Files, dict[str, Row]]:
        """The files that a table names, and its rows. Raises DataError."""
        rows = read_table(place, content(place))
        columns = list(rows[0]) if rows else []
        column = self.path_column or next((name for name in PATH_COLUMNS if name in columns), None)
        if column not in columns:
            wanted = column or f"one of {', '.join(PATH_COLUMNS)}"
            raise DataError(
                f"{what} has the columns {', '.join(columns)}, expected {wanted}: name it as data.path_column"
            )
        files = listed(place, {number: str(row[column]) for number, row in enumerate(rows, 2)}, what)
        return files, dict(zip(files.lines or (), rows, strict=True))


def _metadata(files: Files) -> dict[str, Row]:
    """The rows of the tables metadata.* beside images, by the image's name."""
    rows: dict[str, Row] = {}
    for name in filter(is_metadata, files.names):
        for row in read_table(name, content(files.place(name))):
            if path := row.get(PATH_COLUMNS[0]):
                rows[posixpath.normpath(posixpath.join(posixpath.dirname(name), str(path)))] = row
    return rows


def _parts(
    found: _Found, train: list[str], apart: _Found, heldout: list[str], *, depth: int | None, reading: Reading
) -> tuple[FolderImages, FolderImages]:
    """Both parts, in which classes have the same numbers; `apart` is where the images that are held out lie."""
    elsewhere = apart.files is not found.files
    classes = [*found.classes(train, depth), *apart.classes(heldout, None if elsewhere else depth)]
    numbers = as_numbers(classes) if found.has_labels or apart.has_labels else None
    labels, label_names = by_name(classes) if numbers is None else (numbers, ())
    below = apart.files.place("").removeprefix(found.files.place(""))
    return (
        FolderImages(
            found.files.root,
            train,
            reading=reading,
            label_names=label_names,
            labels=labels[: len(train)],
            rows=found.rows_of(train),
        ),
        FolderImages(
            apart.files.root,
            heldout,
            prefix=below if apart.is_below(found) else HELDOUT_PREFIX,
            reading=reading,
            label_names=label_names,
            labels=labels[len(train) :],
            rows=apart.rows_of(heldout),
        ),
    )
