"""What lies beside the images of a data set and is not used."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from latent_ae.data.source import DataError
from latent_ae.io.image import SUFFIXES
from latent_ae.io.paths import count_by_suffix

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "README.md")
"""what `datasets` itself reads beside images"""


def describe_left_out(files: Sequence[str]) -> str:
    """Files that are not used, for `SourceParts.left_out`."""
    if not files:
        return ""
    what = "1 file is no image that is" if len(files) == 1 else f"{len(files):,} files are no images that are"
    return f"{what} used: {count_by_suffix(map(PurePath, files))}"


def files_without_row(folder: Path, row_paths: Iterable[str]) -> str:
    """The files of a folder of images that `datasets` made no row of, which it drops without a word.

    `row_paths` are those in its image column. '' where there are none, or the folder holds no images but tables.
    """
    files = [path for path in visible_files(folder) if path.name not in _METADATA] if folder.is_dir() else []
    if not any(path.suffix.lower() in SUFFIXES for path in files):  # tables and archives hold the images themselves
        return ""
    # A row of an archive has the path zip://a.png::/folder/images.zip.
    rows = {os.path.realpath(path.rpartition("::")[2]) for path in row_paths}
    return describe_left_out([path.as_posix() for path in files if os.path.realpath(path) not in rows])


def visible_files(root: Path) -> Iterator[Path]:
    """Every visible file, each real folder once: under its own path if it has one, else under its first link's."""
    visited: set[str] = set()
    pending = [root]
    while pending:
        links: list[Path] = []
        for start in pending:
            for folder, names, files in os.walk(start, onerror=_refuse):  # does not enter links
                real = os.path.realpath(folder)
                if real in visited:
                    names.clear()
                    continue
                visited.add(real)
                names[:] = [name for name in names if not name.startswith(".")]
                links += [path for name in names if (path := Path(folder, name)).is_symlink()]
                yield from (Path(folder, name) for name in files if not name.startswith("."))
        pending = sorted(links)


def _refuse(error: OSError) -> None:
    # os.walk passes over folders it may not read, which would change the data set without a word.
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error
