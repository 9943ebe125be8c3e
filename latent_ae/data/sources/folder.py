"""A tree of image files, and its files that are not used."""

import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Literal

from PIL import Image

from latent_ae.data.settings import FilesConfig
from latent_ae.data.source import DataError, SourceParts, file_size, split_by_hash
from latent_ae.io.image import SUFFIXES, BrokenImage, open_image
from latent_ae.io.image_header import header_size
from latent_ae.io.paths import count_by_suffix

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "README.md")
"""what `datasets` itself reads beside images"""


class FolderImages:
    """Image files below a folder; an id is the path relative to it, with forward slashes."""

    def __init__(self, root: Path, relative: list[str], label_names: tuple[str, ...] = ()) -> None:
        """`label_names` are the names of the folders right below `root` that hold images, sorted."""
        self._root = root
        self._relative = relative
        self.label_names = label_names

    def __len__(self) -> int:
        return len(self._relative)

    def sample_id(self, index: int) -> str:
        """The path relative to the folder, which may be moved."""
        return self._relative[index]

    def load(self, index: int) -> Image.Image:
        """Raises BrokenImage, also for a file that was removed."""
        return open_image(self._root / self._relative[index])

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of the upright image, from its header. Raises BrokenImage."""
        return header_size(self._root / self._relative[index])

    def stored(self) -> Iterator[tuple[str, int]]:
        """(id, size of the file). On a network file system each size is a round trip, so threads read many at once."""
        parts = [self._relative[first : first + 1000] for first in range(0, len(self), 1000)]
        with ThreadPoolExecutor(16) as pool:
            for names, sizes in zip(parts, pool.map(self._sizes, parts), strict=True):
                yield from zip(names, sizes, strict=True)

    def stored_bytes(self, index: int) -> bytes:
        """The file's content. Raises OSError."""
        return (self._root / self._relative[index]).read_bytes()

    def _sizes(self, names: list[str]) -> list[int]:
        return [file_size(self._root / name) for name in names]

    def label(self, index: int) -> int | None:
        """Number of the image's folder directly below the root; None for an image in the root."""
        name = _top_folder(self._relative[index])
        return None if name is None else bisect_left(self.label_names, name)

    def caption(self, index: int) -> str | None:
        """Content of the text file beside the image (`a/cat.txt` of `a/cat.jpg`); None if there is none.

        Raises BrokenImage if it cannot be read.
        """
        file = (self._root / self._relative[index]).with_suffix(".txt")
        try:
            return file.read_text(encoding="utf-8-sig").strip()  # Windows' editors put a mark before the text
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise BrokenImage(f"its caption {file.name} cannot be read: {error}", self._relative[index]) from error


class FolderConfig(FilesConfig):
    """folder: a tree of image files."""

    source: Literal["folder"] = "folder"
    path: str
    """a tree of images"""

    def open(self) -> SourceParts:
        """Images sorted by relative path; those whose path hashes below `heldout_share` are held out.

        Files and folders whose names start with a dot are passed over (`._photo.jpg` of macOS is no photo). Links to
        folders are followed, each folder once. Raises DataError.
        """
        root = Path(self.path).expanduser()
        what = f"data.path {root}"
        if not root.exists():
            raise DataError(f"{what} does not exist (from {Path.cwd()}): give a folder of images")
        if not root.is_dir():
            raise DataError(f"{what} is a file, not a folder: give the folder that holds the images")
        files = [path.relative_to(root).as_posix() for path in visible_files(root)]
        images = sorted(path for path in files if Path(path).suffix.lower() in SUFFIXES)
        if not images:
            there = f"its {len(files)} files end in {count_by_suffix(map(Path, files))}" if files else "it is empty"
            raise DataError(f"{what} holds no images: {there}; images end in {', '.join(sorted(SUFFIXES))}")
        train, heldout = split_by_hash(images, self.heldout_share, what)
        captions = {Path(path).with_suffix(".txt").as_posix() for path in images}
        others = sorted(set(files) - set(images) - captions)
        folders = tuple(sorted({name for path in images if (name := _top_folder(path)) is not None}))
        parts = (FolderImages(root, [images[index] for index in part], folders) for part in (train, heldout))
        return SourceParts(*parts, left_out=describe_left_out(others))


def _top_folder(relative: str) -> str | None:
    top, slash, _ = relative.partition("/")
    return top if slash else None


def describe_left_out(files: Sequence[str]) -> str:
    """Files that are not used, for `SourceParts.left_out`."""
    if not files:
        return ""
    what = "1 file is no image that is" if len(files) == 1 else f"{len(files):,} files are no images that are"
    return f"{what} used: {count_by_suffix(map(PurePath, files))}"


def files_without_row(folder: Path, row_paths: Iterable[str]) -> str:
    """The files of a folder of images that `datasets` left out without a message.

    `row_paths` are the paths in its image column. '' if there are none, or if the folder holds tables, not images.
    """
    files = [path for path in visible_files(folder) if path.name not in _METADATA] if folder.is_dir() else []
    if not any(path.suffix.lower() in SUFFIXES for path in files):  # tables and archives hold the images themselves
        return ""
    # A row of an archive has the path zip://a.png::/folder/images.zip.
    rows = {os.path.realpath(path.rpartition("::")[2]) for path in row_paths}
    return describe_left_out([path.as_posix() for path in files if os.path.realpath(path) not in rows])


def visible_files(root: Path) -> Iterator[Path]:
    """Every file whose path has no hidden part, each real folder once: by its own path, else by its first link."""
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
    # os.walk skips folders that it may not read, which would change the data set silently.
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error
