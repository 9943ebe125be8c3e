"""Files by a path: a folder, a pattern, a file list or table, on the disk or at an address of fsspec (s3://, ...)."""

import io
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from latent_ae.data.source import DataError, file_size
from latent_ae.io.image import BrokenImage

_BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MAGIC = re.compile(r"[*?\[]")
_THREADS = 16


@dataclass(frozen=True)
class Files:
    """Files below one folder or address."""

    root: str
    names: list[str]
    """paths below the root, with forward slashes, each once, sorted"""
    lines: list[str] | None = None
    """of a list: the name on each of its lines"""
    repeated: int = 0
    """lines of a list that name a file again"""

    def place(self, name: str) -> str:
        """The path or address of a file."""
        return join(self.root, name)


def is_address(path: str) -> bool:
    """Whether a path is an address of fsspec, such as s3://BUCKET/FOLDER."""
    return "://" in path


def plain(path: str) -> str:
    """The path of a `file://` address, with ~ replaced; other addresses as they are."""
    return path if is_address(path := path.removeprefix("file://")) else str(Path(path).expanduser())


def join(root: str, name: str) -> str:
    """`name` below a folder or address, or itself if it is absolute."""
    return name if is_address(name) else posixpath.join(root, name)


def is_pattern(path: str) -> bool:
    """Whether a path that does not exist has wildcards or braces."""
    return bool(_MAGIC.search(path) or _BRACES.search(path)) and (is_address(path) or not Path(path).exists())


def find_files(path: str, setting: str = "data.path") -> Files:
    """The visible files of a folder, a pattern, a file list (.txt) or an address, or one file itself.

    Patterns have the wildcards of `glob` (** for any folders) and braces: {0000..0010}, {a,b}. A list has one path a
    line, relative to its own folder or absolute. Files and folders whose names start with a dot are passed over
    (`._photo.jpg` of macOS is no photo). Links to folders are followed, each folder once. Raises DataError, also for a
    listed file that is missing.
    """
    what, place = f"{setting} {path}", plain(path)
    if is_pattern(place):
        return _matching(place, what)
    if _is_folder(place, what):
        return Files(root := normal(place), sorted(_below(root)))
    if not exists(place):
        raise DataError(f"{what} does not exist (from {Path.cwd()}): give a folder, a list or a pattern of files")
    if suffix_of(place) == ".txt":
        lines = content(place).decode("utf-8-sig", "surrogateescape").splitlines()
        return listed(place, {number: line.strip() for number, line in enumerate(lines, 1) if line.strip()}, what)
    return Files(normal(posixpath.dirname(place)), [posixpath.basename(place)])


def listed(place: str, entries: dict[int, str], what: str) -> Files:
    """The files that a list or table at `place` names, by line. Raises DataError for one that is missing."""
    folder = normal(posixpath.dirname(place))
    places = [normal(join(folder, name)) for name in entries.values()]
    with ThreadPoolExecutor(_THREADS) as pool:
        there = pool.map(exists, places)
        missing = [entry for entry, exists in zip(entries.items(), there, strict=True) if not exists]
    if missing:
        more = f", nor do {len(missing) - 1} others" if len(missing) > 1 else ""
        number, name = missing[0]
        raise DataError(f"{what}: line {number} names {name}, which does not exist (seen from {folder}){more}")
    root = folder if all(map(re.compile(f"{re.escape(folder)}/").match, places)) else fsspec.utils.common_prefix(places)
    names = [each.removeprefix(f"{root}/") for each in places]
    return Files(root, sorted(set(names)), repeated=len(names) - len(set(names)), lines=names)


def suffix_of(name: str) -> str:
    """The ending of a name, in small letters."""
    return posixpath.splitext(name)[1].lower()


def opened(place: str) -> Path | io.BytesIO:
    """A file to read an image from. Raises BrokenImage if an address cannot be read."""
    if not is_address(place):
        return Path(place)
    try:
        return io.BytesIO(content(place))
    except Exception as error:  # each file system has its own; a zip without the file is a KeyError
        raise BrokenImage(f"{type(error).__name__}: {error}", place) from error


def content(place: str) -> bytes:
    """The bytes of a file. Raises OSError, or what a file system of fsspec does."""
    if not is_address(place):
        return Path(place).read_bytes()
    with fsspec.open(place) as file:
        return bytes(file.read())


def sizes(places: Sequence[str]) -> Iterator[int]:
    """Of each file in bytes, -1 where it is unknown. Over a network each is a round trip, so threads ask for many."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for found in pool.map(_sizes, (places[first : first + 1000] for first in range(0, len(places), 1000))):
            yield from found


def _sizes(places: Sequence[str]) -> list[int]:
    return [_size(place) if is_address(place) else file_size(Path(place)) for place in places]


def _size(address: str) -> int:
    try:
        fs, path = fsspec.core.url_to_fs(address)
        return int(fs.size(path))
    except Exception:  # each file system has its own
        return -1


def _matching(pattern: str, what: str) -> Files:
    """Files that a pattern matches, and those below the folders that it matches."""
    found: list[str] = []
    pattern = pattern if is_address(pattern) else normal(pattern)
    for each in _without_braces(pattern):
        matches = _glob(each, what) if _MAGIC.search(each) else [each]
        if not all(map(exists, matches)):
            raise DataError(f"{what} names {each}, which does not exist: correct the pattern")
        for match in map(normal, matches):
            found += [join(match, name) for name in _below(match)] if _is_folder(match, what) else [match]
    start = normal(posixpath.dirname(_BRACES.split(_MAGIC.split(pattern)[0])[0]))
    names = {each.removeprefix(f"{start}/") for each in found}
    if not (visible := [name for name in names if not _is_hidden(name)]):
        raise DataError(f"{what} matches no file (from {Path.cwd()}): correct the pattern")
    return Files(start, sorted(visible))


def _without_braces(pattern: str) -> list[str]:
    """The patterns that one with {a,b} or {000..010} stands for."""
    if (braces := _BRACES.search(pattern)) is None:
        return [pattern]
    choices = braces[1].split(",")
    if ends := _RANGE.fullmatch(braces[1]):
        choices = [f"{number:0{len(ends[1])}d}" for number in range(int(ends[1]), int(ends[2]) + 1)]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return [each for choice in choices for each in _without_braces(f"{before}{choice}{after}")]


def _glob(pattern: str, what: str) -> list[str]:
    fs, path = _file_system(pattern, what)
    return [plain(str(fs.unstrip_protocol(each))) for each in fs.glob(path)]


def _below(root: str) -> list[str]:
    """Names of the visible files below a folder or address."""
    if not is_address(root):
        return list(_visible(root))
    fs, path = fsspec.core.url_to_fs(root)
    names = [posixpath.relpath(each, path) for each in fs.find(path)]
    return [name for name in names if not _is_hidden(name)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part != ".." for part in name.split("/"))


def _visible(root: str) -> Iterator[str]:
    """Every file without a hidden part, each real folder once: by its own path, else by its first link."""
    visited: set[str] = set()
    pending = [root]
    while pending:
        links: list[str] = []
        for start in pending:
            for folder, names, files in os.walk(start, onerror=_refuse):  # does not enter links
                real = os.path.realpath(folder)
                if real in visited:
                    names.clear()
                    continue
                visited.add(real)
                names[:] = [name for name in names if not name.startswith(".")]
                links += [path for name in names if os.path.islink(path := join(folder, name))]  # noqa: PTH114 - fast
                above = "" if folder == root else folder.removeprefix(root.rstrip("/") + "/") + "/"
                yield from (above + name for name in files if not name.startswith("."))
        pending = sorted(links)


def _refuse(error: OSError) -> None:
    # os.walk skips folders that it may not read, which would change the data set silently.
    raise DataError(f"cannot list {error.filename}: {error.strerror}") from error


def exists(place: str) -> bool:
    """Whether there is a file or folder."""
    fs, path = fsspec.core.url_to_fs(place)
    return bool(fs.exists(path))


def _is_folder(place: str, what: str) -> bool:
    fs, path = _file_system(place, what)
    return bool(fs.isdir(path))


def _file_system(address: str, what: str) -> tuple[Any, str]:
    """The file system of an address, which may have to be installed, and the path in it. Raises DataError."""
    try:
        fs, path = fsspec.core.url_to_fs(address)
        fs.exists(path)  # asks for credentials, where it needs some
    except Exception as error:  # each file system has its own
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise DataError(f"{what} cannot be opened: {reason}") from error
    return fs, path


def normal(place: str) -> str:
    """An absolute path or address without needless parts, as a file system lists it."""
    if not is_address(place):
        return os.path.normpath(Path.cwd() / place)
    fs, path = fsspec.core.url_to_fs(place)
    return str(fs.unstrip_protocol(path))
