"""Files whose damage leaves the pixels whole: what is beside them is cut away."""

import zlib
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, PngImagePlugin

from latent_ae.io.image_file.containers import PNG_START, contents, png_chunks

_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT")
_COMPRESSED = {b"zTXt": 1, b"iTXt": 0, b"iCCP": 1}
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_JPEG_END = b"\xff\xd9"
_FILLERS = (b"\xaa" * 4096, b"\x55" * 4096, b"\xd2\x69\x1b\xe4" * 1024)
"""in the place of what may be missing; the decoder itself takes zeros"""


@dataclass(frozen=True)
class Mended:
    """A file without its damage."""

    data: bytes
    damage: str
    """what was wrong, for a person"""


def mended(data: bytes) -> Mended | None:
    """A PNG without damaged or too large metadata, or a JPEG with the end that it lacks.

    None if nothing of the kind is wrong with the file, or if its pixels are not whole.
    """
    if data.startswith(PNG_START):
        return _mended_png(data)
    if data.startswith(b"\xff\xd8"):
        return _mended_jpeg(data)
    return None


def _mended_png(data: bytes) -> Mended | None:
    stream, kept, damage, text_bytes = BytesIO(data), [PNG_START], [], 0
    for part in png_chunks(stream):
        whole = part.start + part.length + 4 <= len(data)
        content = contents(stream, part)
        checksum = int.from_bytes(data[part.start + part.length :][:4], "big")
        sound = whole and zlib.crc32(part.name + data[part.start : part.start + part.length]) == checksum
        name = part.name.decode("latin-1")
        if part.name in _PIXELS:
            if not whole:
                return None
        elif not sound:
            damage.append(f"{name} with a wrong checksum" if whole else f"{name} that is cut short")
            continue
        elif (size := _unpacked_size(part.name, content)) > PngImagePlugin.MAX_TEXT_CHUNK:
            damage.append(f"{name} of {size >> 20} MiB or more")
            continue
        elif part.name in _TEXT and (text_bytes := text_bytes + size) > PngImagePlugin.MAX_TEXT_MEMORY:
            damage.append(f"{name} beyond {PngImagePlugin.MAX_TEXT_MEMORY:,} bytes of text")
            continue
        kept.append(data[part.start - 8 : part.start + part.length + 4])
        if part.name == b"IEND":
            break
    else:
        damage.append("no end")
        kept.append(b"\0\0\0\0IEND\xaeB`\x82")
    if not damage:
        return None
    shown = ", ".join(damage[:3]) + (f" and {len(damage) - 3} more" if len(damage) > 3 else "")
    return Mended(b"".join(kept), shown)


def _unpacked_size(name: bytes, content: bytes) -> int:
    """Bytes of a chunk's text or profile, no more than just too many."""
    if name not in _COMPRESSED:
        return len(content)
    _, _, rest = content.partition(b"\0")
    if name == b"iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]
        if not compressed:
            return len(rest)
    else:
        rest = rest[1:]
    try:
        return len(zlib.decompressobj().decompress(rest, PngImagePlugin.MAX_TEXT_CHUNK + 1))
    except zlib.error:  # which PIL passes over
        return 0


def _mended_jpeg(data: bytes) -> Mended | None:
    """With an end. The pixels are whole if they do not depend on what comes before it."""
    if data.rstrip(b"\0").endswith(_JPEG_END) or not _has_every_scan(data):
        return None
    closed = data + _JPEG_END
    try:
        pixels = _decoded(closed)
        if all(_decoded(data + filler + _JPEG_END) == pixels for filler in _FILLERS):
            return Mended(closed, "no end")
    except Exception:  # damage of other kinds makes PIL raise nearly anything
        return None
    return None


def _has_every_scan(data: bytes) -> bool:
    """Whether the scans of a JPEG, complete or not, hold all bits of all coefficients: a progressive one has many."""
    missing: set[tuple[int, int]] = set()
    """(component, coefficient) whose last bits have not come yet"""
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        marker, start = data[place + 1], place + 4
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # within a scan, or without contents
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : start], "big")
        segment = data[start : place + 2 + length]
        if marker == 0xC2 and len(segment) >= 6:
            missing = {(segment[at], k) for at in range(6, len(segment), 3) for k in range(64)}
        elif marker == 0xDA and len(segment) >= 4 and segment[-1] & 0x0F == 0:
            first, last = segment[-3], segment[-2]
            missing -= {(segment[at], k) for at in range(1, len(segment) - 3, 2) for k in range(first, last + 1)}
        place += 2 + length
    return not missing


def _decoded(data: bytes) -> bytes:
    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        return image.tobytes()
