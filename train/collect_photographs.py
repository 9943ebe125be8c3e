"""Collect the photographs that the shipped models are trained on: freely licensed, from one Debian package.

    python train/collect_photographs.py photographs [--package gcompris-qt-data_3.1-2_all.deb]

GCompris teaches children with photographs of animals, monuments and music. They are taken out of the package as they
are, without encoding them again, and photographs/photographs.csv lists each with its author, licence and origin as
the package states them. dpkg-deb reads the package; without --package, apt-get downloads that of the system's release.
"""

import argparse
import csv
import io
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from PIL import Image

from latent_ae.io.atomic import write_atomically

PACKAGE = "gcompris-qt-data"
RESOURCES = "./usr/share/gcompris-qt/rcc/"
ACTIVITIES = (
    *("clickgame", "erase", "explore_farm_animals", "explore_monuments", "explore_world_animals"),
    "explore_world_music",
)
"""those with photographs"""
SUFFIXES = {".jpg", ".png", ".webp"}
SHORTEST_SIDE = 320
"""pixels; smaller pictures are icons"""

_FOLDER, _COMPRESSED, _ZSTANDARD = 2, 1, 4  # flags of a node


def files_of_resource(resource: bytes) -> Iterator[tuple[PurePosixPath, bytes]]:
    """The files in one of Qt's binary resources (.rcc). Raises ValueError if it is none.

    The format is that of qtbase/src/corelib/io/qresource.cpp: a tree of nodes, their names and their contents.
    """
    magic, version, tree, contents, names = struct.unpack_from(">4sIIII", resource)
    if magic != b"qres" or version not in (1, 2, 3):
        raise ValueError(f"not a Qt resource of version 1 to 3: it begins with {magic!r}, version {version}")
    node_bytes = 14 if version == 1 else 22

    def node(index: int, above: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes]]:
        name_at, flags, first, second = struct.unpack_from(">IHII", resource, tree + index * node_bytes)
        (letters,) = struct.unpack_from(">H", resource, names + name_at)
        start = names + name_at + 6  # after the length and a hash
        path = above / (resource[start : start + 2 * letters].decode("utf-16-be") if index else "")
        if flags & _FOLDER:  # `first` children from number `second` on
            for child in range(second, second + first):
                yield from node(child, path)
            return
        start = contents + second
        (size,) = struct.unpack_from(">I", resource, start)
        content = resource[start + 4 : start + 4 + size]
        if flags & _ZSTANDARD:
            return  # photographs do not get smaller by it, so none is kept so
        yield path, zlib.decompress(content[4:]) if flags & _COMPRESSED else content

    yield from node(0, PurePosixPath())


def main() -> None:
    """Write the photographs and their list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--package", type=Path, help="the .deb file")
    given = parser.parse_args()
    if given.folder.exists():
        sys.exit(f"error: {given.folder} exists: give a new folder")
    with tempfile.TemporaryDirectory() as download:
        if given.package is None:
            subprocess.run(["apt-get", "download", PACKAGE], cwd=download, check=True)  # noqa: S603, S607
        package = given.package or next(Path(download).glob("*.deb"))
        name = f"{PACKAGE} {said_by('dpkg-deb', '--field', package, 'Version').decode().strip()}"
        with tarfile.open(fileobj=io.BytesIO(said_by("dpkg-deb", "--fsys-tarfile", package))) as content:
            rows = [{"package": name, **row} for row in collect(content, given.folder)]
    listing = io.StringIO(newline="")
    writer = csv.DictWriter(listing, ["file", "author", "licence", "origin", "package"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(given.folder / "photographs.csv", listing.getvalue().encode())
    print(f"{given.folder}: {len(rows)} photographs")


def said_by(*command: str | Path) -> bytes:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, check=True).stdout  # noqa: S603  # of this file


def collect(package: tarfile.TarFile, folder: Path) -> Iterator[dict[str, str]]:
    """Write the photographs of the package into the folder; yields what is stated of each."""
    folder.mkdir(parents=True)
    for activity in ACTIVITIES:
        resource = package.extractfile(f"{RESOURCES}{activity}.rcc")
        assert resource is not None  # a file, not a folder
        files = dict(files_of_resource(resource.read()))
        (readme,) = (content.decode() for path, content in files.items() if path.name == "README")
        terms = stated_terms(readme)
        for path, content in sorted(files.items()):
            stated = next((row for name, row in terms.items() if path.match(name)), None)
            if path.suffix not in SUFFIXES or stated is None:
                continue
            with Image.open(io.BytesIO(content)) as image:
                photograph = image.mode == "RGB" and min(image.size) >= SHORTEST_SIDE
            if photograph:
                file = folder / f"{activity}-{path.name}"
                write_atomically(file, content)
                yield {"file": file.name, **stated}


def stated_terms(readme: str) -> dict[str, dict[str, str]]:
    """Author, licence and origin of each file that an activity's README names, where all three are there."""
    terms: dict[str, dict[str, str]] = {}
    for paragraph in readme.split("\n\n"):
        values: dict[str, list[str]] = {}
        key = ""
        for line in paragraph.strip().splitlines():
            named = re.fullmatch(r"([A-Z][a-z]+): ?(.*)", line)
            key, value = (named[1], named[2]) if named else (key, line)
            values.setdefault(key, []).append(value.strip())
        if {"Copyright", "License", "Source", "Files"} <= values.keys():
            row = {"author": "Copyright", "licence": "License", "origin": "Source"}
            stated = {column: " ".join(values[name]).strip() for column, name in row.items()}
            terms |= dict.fromkeys(filter(None, values["Files"]), stated)
    return terms


if __name__ == "__main__":
    main()
