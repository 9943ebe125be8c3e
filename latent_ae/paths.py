"""Files named on a command line, and names for what is made of them. Needs no torch."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path, PurePath

from latent_ae.errors import UserError


@dataclass(frozen=True)
class Source:
    """A file to work on."""

    path: Path
    place: PurePath
    """where it lies below the folder it was found in; its name alone if it was named itself"""


def find_files(paths: Sequence[Path], suffixes: Collection[str], *, without: Path | None = None) -> list[Source]:
    """The files among `paths` as they are, and those in the folders among them, sorted, whose names end in `suffixes`.

    Every file comes once. What is hidden (its name starts with a dot) is passed over, links to folders are followed,
    and `without` is not entered: the outputs of an earlier run may lie in a folder below. Files that are named need not
    exist. Raises UserError for a folder that holds nothing or cannot be listed.
    """
    sources: dict[Path, Source] = {}
    for path in paths:
        if not path.is_dir():
            sources.setdefault(path.resolve(), Source(path, PurePath(path.name)))
            continue
        found = sorted(_walk(path, suffixes, without), key=lambda source: source.place.as_posix())
        if not found:
            raise UserError(f"{path} holds no files that end in {', '.join(sorted(suffixes))}")
        for source in found:
            sources.setdefault(source.path.resolve(), source)
    return list(sources.values())


def output_names(places: Sequence[PurePath], suffix: str) -> list[PurePath]:
    """A name for what is made of each file: the file's own with another suffix, in the same folder.

    Where two would collide, the later one keeps its own suffix too (`a.jpg.png`) or is numbered. Names that differ in
    upper and lower case alone collide: on some file systems they are one.
    """
    names: list[PurePath] = []
    taken: set[str] = set()
    numbers: defaultdict[PurePath, Iterator[int]] = defaultdict(lambda: count(2))
    for place in places:
        bare = place.with_name(place.stem)
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


def _walk(root: Path, suffixes: Collection[str], without: Path | None) -> Iterator[Source]:
    entered = {os.path.realpath(without)} - {os.path.realpath(root)} if without else set()
    for folder, names, files in os.walk(root, followlinks=True, onerror=_refuse):
        if (real := os.path.realpath(folder)) in entered:
            names.clear()
            continue
        entered.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in suffixes:
                yield Source(path, path.relative_to(root))


def _refuse(error: OSError) -> None:
    # os.walk passes over folders it may not read, as if they were empty.
    raise UserError(f"cannot list {error.filename}: {error.strerror}") from error
