"""Walks through the parts of PNG, JPEG 2000 and AVIF files, which Pillow does not hand out. No part is decoded."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

PNG_START = b"\x89PNG\r\n\x1a\n"
_MOST_PARTS = 1_000_000
"""A file with more is hostile."""
_LARGEST_READ = 1 << 24


class Part(NamedTuple):
    """A chunk of a PNG or a box of an ISO file."""

    name: bytes
    start: int
    """of its contents in the file"""
    length: int
    """of its contents in bytes"""


@contextmanager
def place_kept(stream: IO[bytes]) -> Iterator[None]:
    """Restore the stream's position afterwards."""
    place = stream.tell()
    try:
        yield
    finally:
        stream.seek(place)


def contents(stream: IO[bytes], part: Part) -> bytes:
    """The bytes of a part, at most 16 MiB of them."""
    stream.seek(part.start)
    return stream.read(min(part.length, _LARGEST_READ))


def png_chunks(stream: IO[bytes]) -> Iterator[Part]:
    """The chunks of a PNG up to the first incomplete header."""
    place = len(PNG_START)
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        header = stream.read(8)
        if len(header) < 8:
            return
        length = int.from_bytes(header[:4], "big")
        yield Part(header[4:], place + 8, length)
        place += length + 12  # with length, name and checksum


def boxes(stream: IO[bytes], path: tuple[bytes, ...], start: int = 0, end: int | None = None) -> Iterator[Part]:
    """The boxes of an ISO base media or JP2 file that lie at `path`, a name for each level."""
    end = stream.seek(0, 2) if end is None else end
    place = start
    for _ in range(_MOST_PARTS):
        stream.seek(place)
        header = stream.read(16)
        if place + 8 > end or len(header) < 8:
            return
        size, name, head = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1 and len(header) == 16:
            size, head = struct.unpack(">Q", header[8:])[0], 16
        size = size or end - place  # 0: up to the end
        if size < head:
            return
        part = Part(name, place + head, min(size, end - place) - head)
        if name == path[0] and len(path) == 1:
            yield part
        elif name == path[0]:
            version = 4 if name == b"meta" else 0  # the only full box with children that is met here
            yield from boxes(stream, path[1:], part.start + version, part.start + part.length)
        place += size
