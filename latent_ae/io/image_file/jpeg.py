"""The first rows of a JPEG as a JPEG of their own, which decodes to the same pixels."""

import struct
from typing import NamedTuple

_END = b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)
"""the second byte of the header of a frame: baseline, extended, progressive, all by Huffman's code"""
_SCAN = 0xDA
_BLOCK_ROWS = 32
"""pixels: no format of JPEG has larger blocks with their subsampled colours"""
_MORE_BLOCKS = 2
"""the colours of a row depend on the block below it, and on the next one where a file leaves details out"""


class StoredSize(NamedTuple):
    """What the header of a frame says."""

    height: int
    width: int
    place: int
    """of the height in the file"""


def first_rows(data: bytes, rows: int) -> bytes:
    """A file whose decoder stops early: its image has the first `rows` rows at least, with the pixels of `data`.

    A decoder takes the height from the header alone, and skips what follows the last row. `data` itself is returned
    where there is nothing to gain, and for a file that does not end as a JPEG does: one that was cut short has to be
    refused as a whole, whichever rows are wanted.
    """
    size = stored_size(data) if data.endswith(_END) else None
    wanted = (rows // _BLOCK_ROWS + 1 + _MORE_BLOCKS) * _BLOCK_ROWS
    if size is None or wanted >= size.height:
        return data
    return b"".join((data[: size.place], struct.pack(">H", wanted), data[size.place + 2 :]))


def stored_size(data: bytes) -> StoredSize | None:
    """The size that a file says its image has, before it is turned; None if there is none before the first scan."""
    place = 2
    while place + 9 < len(data) and data[place] == 0xFF and (marker := data[place + 1]) != _SCAN:
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return StoredSize(height, width, place + 5)
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None
