"""Photographs are taken out of a package with what it states of each; the resource is written here by hand."""

import io
import struct
import tarfile
import zlib
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from tests.program.forked import ROOT
from tests.program.running import load_program

collecting = load_program(ROOT / "train" / "collect_photographs.py")

README = """Copyright: Ann Author
License: CC0-1.0
Source: https://example.org/owl
Files:
owl.webp
eagle.webp

Copyright: Bob Builder
License: CC-BY-SA-4.0
Comments: cropped
Files: hut.webp

Copyright: Cy Clist
Source: https://example.org/road
License: CC-BY-2.0
Comments: cropped
Files: birds/road.webp
"""


def picture(width: int, height: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "webp", lossless=True)
    return file.getvalue()


def resource(files: dict[str, bytes], version: int = 3) -> bytes:
    """An .rcc with the folder `birds` of these files, the first compressed."""
    names, contents = b"", b""

    def name(text: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return at

    stamp = b"" if version == 1 else bytes(8)
    tree = struct.pack(">IHII", 0, 2, 1, 1) + stamp
    tree += struct.pack(">IHII", name("birds"), 2, len(files), 2) + stamp
    for number, (file, content) in enumerate(files.items()):
        packed = struct.pack(">I", len(content)) + zlib.compress(content) if number == 0 else content
        tree += struct.pack(">IHHHI", name(file), 1 if number == 0 else 0, 0, 0, len(contents)) + stamp
        contents += struct.pack(">I", len(packed)) + packed
    head = 20 if version < 3 else 24
    places = (head, head + len(tree), head + len(tree) + len(contents))
    return struct.pack(">4s4I", b"qres", version, *places) + bytes(head - 20) + tree + contents + names


@pytest.mark.parametrize("version", [1, 2, 3])
def test_the_files_of_a_resource(version: int) -> None:
    files = {"README": b"words " * 50, "owl.webp": b"\xff" * 7, "empty": b""}
    found = dict(collecting.files_of_resource(resource(files, version)))
    assert found == {PurePosixPath("birds", name): content for name, content in files.items()}


def test_other_files_are_refused() -> None:
    with pytest.raises(ValueError, match="not a Qt resource"):
        dict(collecting.files_of_resource(b"RIFF" + bytes(40)))


def test_photographs_are_kept_as_they_are_with_their_terms(tmp_path: Path) -> None:
    files = {
        "README": README.encode(),
        "owl.webp": picture(400, 320),
        "eagle.webp": picture(400, 319),  # too small
        "hut.webp": picture(400, 320),  # its source is not stated
        "road.webp": picture(330, 500),
        "unknown.webp": picture(400, 400),
    }
    content = resource(files)
    with tarfile.open(tmp_path / "data.tar", "w") as package:
        for activity in collecting.ACTIVITIES:
            member = tarfile.TarInfo(f"{collecting.RESOURCES}{activity}.rcc")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    with tarfile.open(tmp_path / "data.tar") as package:
        rows = list(collecting.collect(package, tmp_path / "out"))
    assert {row["file"].split("-", 1)[1] for row in rows} == {"owl.webp", "road.webp"}
    assert len(rows) == 2 * len(collecting.ACTIVITIES)
    row = rows[0]
    assert (row["author"], row["licence"], row["origin"]) == ("Ann Author", "CC0-1.0", "https://example.org/owl")
    assert (tmp_path / "out" / row["file"]).read_bytes() == files["owl.webp"]
    assert {each.name for each in (tmp_path / "out").iterdir()} == {each["file"] for each in rows}
