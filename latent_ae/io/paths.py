"""Files named on a command line, and names for what is made of them. Needs no torch."""

import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePath

from latent_ae.errors import UserError

_SHOWN_SUFFIXES = 6


@dataclass(frozen=True)
class Source:
    """A file to work on."""

    path: Path
    place: PurePath
    """where it lies below the folder it was found in; its name alone if it was named itself"""


@dataclass(frozen=True)
class Found:
    """The files to work on, and those in the same folders that are of no kind to work on."""

    sources: list[Source]
    others: list[Path]


def find_files(paths: Sequence[Path], suffixes: Collection[str], *, without: Path | None = None) -> Found:
    """The files among `paths` as they are, and those in the folders among them, sorted, whose names end in `suffixes`.

    Every file comes once. What is hidden (its name starts with a dot) is passed over, links to folders are followed,
    and `without` is not entered: the outputs of an earlier run may lie in a folder below. Files that are named need not
    exist. Raises UserError for a folder that holds nothing or cannot be listed.
    """
    sources: dict[Path, Source] = {}
    others: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            sources.setdefault(path.resolve(), Source(path, PurePath(path.name)))
            continue
        every = sorted(_walk(path, without), key=lambda source: source.place.as_posix())
        found = [source for source in every if _ends_in(source.path, suffixes)]
        if not found:
            there = f": it holds {count_by_suffix([source.path for source in every])}" if every else ""
            raise UserError(f"{path} holds no files that end in {', '.join(sorted(suffixes))}{there}")
        for source in found:
            sources.setdefault(source.path.resolve(), source)
        rest = (source.path for source in every if not _ends_in(source.path, suffixes))
        others |= {path.resolve(): path for path in rest}
    return Found(list(sources.values()), [path for real, path in others.items() if real not in sources])


def near_names(path: Path) -> list[str]:
    """Paths in the same folder as one that is not there, and like it; the most alike first, at most three."""
    names = [each.name for each in listed(path.parent) if not each.name.startswith(".")]
    close = difflib.get_close_matches(path.name.lower(), [name.lower() for name in names])
    return [str(path.parent / name) for alike in dict.fromkeys(close) for name in names if name.lower() == alike]


def listed(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing of one that cannot be listed."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def count_by_suffix(paths: Iterable[PurePath]) -> str:
    """How many files of which suffix there are, the most frequent first: `.heic (2), .zip (1)`."""
    suffixes = Counter(sorted(path.suffix.lower() or "no suffix" for path in paths)).most_common()
    shown = ", ".join(f"{suffix} ({count})" for suffix, count in suffixes[:_SHOWN_SUFFIXES])
    more = sum(count for _, count in suffixes[_SHOWN_SUFFIXES:])
    return f"{shown} and {more} of other kinds" if more else shown


def output_names(places: Sequence[PurePath], suffix: str) -> list[PurePath]:
    """A name for what is made of each file: the file's own with another suffix, in the same folder.

    Where two would collide, the later one keeps its own suffix too (`a.jpg.png`) or is numbered. Names that differ in
    upper and lower case alone collide: on some file systems they are one.
    """
    names: list[PurePath] = []
    taken: set[str] = set()
    numbers: defaultdict[PurePath, Iterator[int]] = defaultdict(lambda: count(2))
    for place in places:
        bare = place.with_name(stem_of(place))
        numbered = (f"{bare}-{number}" for number in numbers[bare])
        names.append(
            name := next(
                PurePath(f"{name}{suffix}")
                for name in chain([str(bare), str(place)], numbered)
                if f"{name}{suffix}".casefold() not in taken
            )
        )
        taken.add(str(name).casefold())
    return names


def stem_of(place: PurePath) -> str:
    """The name without what `find_files` takes for its suffix."""
    return place.name[: -len(".nii.gz")] if place.name.lower().endswith(".nii.gz") else place.stem


def _ends_in(path: Path, suffixes: Collection[str]) -> bool:
    return path.name.lower().endswith(tuple(suffixes))  # one is .nii.gz


def _walk(root: Path, without: Path | None) -> Iterator[Source]:
    entered = {os.path.realpath(without)} - {os.path.realpath(root)} if without else set()
    for folder, names, files in os.walk(root, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(folder)) in entered:
            names.clear()
            continue
        entered.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                yield Source(path := Path(folder, name), path.relative_to(root))


def _refuse(error: OSError) -> None:
    # os.walk passes over folders it may not read, as if they were empty.
    raise UserError(f"cannot list {error.filename}: {error.strerror}") from error
