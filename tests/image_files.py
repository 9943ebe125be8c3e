"""Image files whose tags change what their pixels mean, each with what is right."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

ORIENTATION = 0x0112


@dataclass(frozen=True)
class Case:
    """A file, and the pixels that are right or the reason for which it is refused."""

    data: bytes
    right: object = None
    """what is broadcast to [H, W, 3]"""
    refused: str = ""
    """a part of the reason"""
    tolerance: int = 0
    remark: str = ""
    """a part of what is said about it"""


def noise(height: int = 6, width: int = 9, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(pixels: np.ndarray, *before: bytes, after: bytes = b"") -> bytes:
    """A PNG with further chunks before or after its pixels."""
    data = encoded(Image.fromarray(pixels))
    first, last = data.index(b"IDAT") - 4, len(data) - 12
    return data[:first] + b"".join(before) + data[first:last] + after + data[last:]


def tiff(pixels: bytes, size: tuple[int, int], tags: dict[int, int | list[int] | bytes], order: str = "<") -> bytes:
    """An uncompressed TIFF of one strip; numbers are SHORTs, and LONGs where they have to be."""
    width, height = size
    every = {256: width, 257: height, 259: 1, 273: 8, 277: 1, 278: height, 279: len(pixels)} | tags
    entries, extra, start = b"", b"", 8 + len(pixels) + len(pixels) % 2
    behind = start + 2 + 12 * len(every) + 4
    for tag, value in sorted(every.items()):
        numbers = list(value) if isinstance(value, list | bytes) else [value]
        kind, letter = (7, "B") if isinstance(value, bytes) else (4, "I") if max(numbers) > 65535 else (3, "H")
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(packed) > 4:
            place, extra = struct.pack(f"{order}I", behind + len(extra)), extra + packed + bytes(len(packed) % 2)
        else:
            place = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + place
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + pixels + bytes(len(pixels) % 2) + struct.pack(f"{order}H", len(every)) + entries + bytes(4) + extra


def gray_tiff(values: list[int], letter: str, bits: int, order: str = "<", **more: int) -> bytes:
    """A TIFF of one row of grey; `photometric` is 1 (black is 0) and `format` 1 (unsigned) if they are left out."""
    packed = struct.pack(f"{order}{len(values)}{letter}", *values)
    tags = {258: bits, 262: more.get("photometric", 1), 339: more.get("format", 1)}
    return tiff(packed, (len(values), 1), tags, order)


def packed_bits(values: list[int], bits: int) -> bytes:
    """Whole bytes of values side by side, highest bit first."""
    text = "".join(f"{value:0{bits}b}" for value in values)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def icc(space: bytes, tags: dict[bytes, bytes], pcs: bytes = b"XYZ ", kind: bytes = b"mntr") -> bytes:
    """An ICC profile of version 2."""
    name = b"desc\0\0\0\0" + struct.pack(">I", 8) + b"Crafted\0" + bytes(78)
    tags = {b"desc": name, b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)} | tags
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x02400000, kind, space, pcs, b"acsp")
    head = (head + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + body


LINEAR_GRAY = icc(b"GRAY", {b"kTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, 256)})  # gamma 1


def press_profile() -> bytes:
    """CMYK where cyan alone is the grey of L* 50, nothing is white and everything else is black."""
    grid = [[255, 128, 128] if ink == 0 else [128, 128, 128] if ink == 8 else [0, 128, 128] for ink in range(16)]
    ramp = bytes(range(256))
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    return icc(b"CMYK", {b"A2B0": head + ramp * 4 + bytes(np.ravel(grid).tolist()) + ramp * 3}, b"Lab ", b"prtr")


@cache
def shipped(name: str) -> tuple[Image.Image, bytes]:
    """A picture of scikit-image's and its profile, as other people's programs wrote it."""
    spec = find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    with Image.open(Path(spec.origin).parent / "data" / name) as image:
        return image.copy(), image.info["icc_profile"]


def decoded(levels: np.ndarray) -> np.ndarray:
    """Levels 0..255 of sRGB -> linear light."""
    v = levels / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def coded(light: np.ndarray) -> np.ndarray:
    """Linear light -> sRGB 0..255, clipped."""
    v = np.clip(light, 0, 1)
    return np.rint(255 * np.where(v <= 0.0031308, 12.92 * v, 1.055 * v ** (1 / 2.4) - 0.055))


# Linear light to sRGB's, as published: Adobe RGB (1998) by Lindbloom, Display P3 by CSS Color 4, BT.2020 by BT.2087.
ADOBE = [[1.3983557, -0.3983557, 0], [0, 1, 0], [0, -0.0429290, 1.0429290]]
P3 = [[1.2249401, -0.2249404, 0], [-0.0420569, 1.0420571, 0], [-0.0196376, -0.0786361, 1.0982735]]
BT2020 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]

COLORS = np.random.default_rng(0).integers(40, 216, (6, 9, 3), dtype=np.uint8)
GRAYS = np.arange(0, 256, 5, dtype=np.uint8)[None]


def from_adobe(levels: np.ndarray) -> np.ndarray:
    return coded((levels / 255) ** (563 / 256) @ np.array(ADOBE).T)


def from_srgb_curve(levels: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    return coded(decoded(levels) @ np.array(matrix).T)


def grays(*levels: int) -> np.ndarray:
    return np.array(levels)[None, :, None]


def avif(primaries: int, transfer: int) -> bytes:
    data = encoded(Image.new("RGB", (16, 16), (200, 60, 60)), "AVIF", quality=100)
    place = data.index(b"nclx") + 4
    return data[:place] + struct.pack(">HH", primaries, transfer) + data[place + 4 :]


def jp2(profile: bytes) -> bytes:
    """A lossless JPEG 2000 with an ICC profile in place of its enumerated colour space."""
    data = encoded(Image.fromarray(COLORS), "JPEG2000", irreversible=False)
    box, head = data.index(b"colr") - 4, data.index(b"jp2h") - 4
    (old,) = struct.unpack(">I", data[box : box + 4])
    new = struct.pack(">I", len(profile) + 11) + b"colr\2\0\0" + profile
    (length,) = struct.unpack(">I", data[head : head + 4])
    grown = struct.pack(">I", length + len(new) - old)
    return data[:head] + grown + data[head + 4 : box] + new + data[box + old :]


def bmp(profile: bytes) -> bytes:
    """A BMP of version 5 with a profile in its header."""
    pixels = np.pad(COLORS[::-1, :, ::-1], ((0, 0), (0, 0), (0, 0))).reshape(len(COLORS), -1)
    rows = np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % 4))).tobytes()
    height, width = COLORS.shape[:2]
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0).ljust(56, b"\0") + b"DEBM"
    head = head.ljust(112, b"\0") + struct.pack("<III", 124 + len(rows), len(profile), 0)
    return b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(profile), 0, 0, 138) + head + rows + profile


def adobe_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    return encoded(Image.new("RGB", (16, 16), (200, 60, 60)), "JPEG", quality=100, subsampling=0, exif=exif)


def tga(attribute_bits: int) -> bytes:
    """BGRA pixels with alpha 0, which only counts where the header gives it bits."""
    return (
        struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 4, 1, 32, 0x20 | attribute_bits) + bytes([3, 2, 1, 0]) * 4
    )


def transparent(mode: str) -> bytes:
    return encoded(Image.new(mode, (4, 4)), "PNG")


ROCKET = shipped("rocket.jpg")[1]
PAGE = shipped("page.png")[1]
SRGB_OF_HP = shipped("chelsea.png")[1]
HALF_IN_RED = struct.pack("<3H", 0x3C00, 0, 0)

TIFFS = {
    "12-bit": Case(tiff(packed_bits([0, 2048, 4095, 1], 12), (4, 1), {258: 12, 262: 1}), grays(0, 128, 255, 0)),
    "12-bit, big-endian": Case(
        tiff(packed_bits([0, 4095], 12), (2, 1), {258: 12, 262: 1}, ">"), refused="1 sample a pixel of 12 bits"
    ),
    "10-bit": Case(tiff(packed_bits([0] * 4, 10), (4, 1), {258: 10, 262: 1}), refused="of 10 bits, unsigned"),
    "14-bit": Case(tiff(packed_bits([0] * 4, 14), (4, 1), {258: 14, 262: 1}), refused="of 14 bits, unsigned"),
    "16-bit": Case(gray_tiff([0, 257, 65535], "H", 16), grays(0, 1, 255)),
    "16-bit, big-endian": Case(gray_tiff([0, 257, 65535], "H", 16, ">"), grays(0, 1, 255)),
    "16-bit, 0 is white": Case(gray_tiff([0, 257, 65535], "H", 16, photometric=0), grays(255, 254, 0)),
    "16-bit, 0 is white, big-endian": Case(
        gray_tiff([0, 65535], "H", 16, ">", photometric=0), refused="grey, 1 sample a pixel of 16 bits"
    ),
    "8-bit, 0 is white": Case(gray_tiff([0, 1, 255], "B", 8, photometric=0), grays(255, 254, 0)),
    "signed 8-bit": Case(gray_tiff([-1, 1], "b", 8, format=2), refused="signed integers of 8 bits"),
    "signed 16-bit": Case(gray_tiff([0, 32767], "h", 16, format=2), refused="signed integers of 16 bits"),
    "signed 16-bit, big-endian": Case(gray_tiff([0, 9], "h", 16, ">", format=2), refused="signed integers of 16 bits"),
    "32-bit": Case(gray_tiff([0, 257, 65535], "i", 32, format=2), grays(0, 1, 255)),
    "32-bit beyond 16": Case(gray_tiff([0, 1 << 20], "I", 32), refused="expected integers in 0..65535"),
    "float": Case(gray_tiff([0, 0.5, 1], "f", 32, format=3), grays(0, 128, 255)),
    "float, 0 is white": Case(gray_tiff([0, 0.25, 1], "f", 32, format=3, photometric=0), grays(255, 191, 0)),
    "half float": Case(gray_tiff([0, 1], "e", 16, format=3), refused="of 16 bits, float"),
    "double": Case(gray_tiff([0, 1], "d", 64, format=3), refused="of 64 bits, float"),
    "RGB float": Case(
        tiff(struct.pack("<3f", 0, 0, 1), (1, 1), {258: [32] * 3, 262: 2, 277: 3, 339: [3] * 3}),
        refused="RGB, 3 samples a pixel of 32 bits, float",
    ),
    "palette of 16-bit levels": Case(
        tiff(b"\1", (1, 1), {258: 8, 262: 3, 320: [0, 51200, *[0] * 254] * 3}), [200, 200, 200]
    ),
    "palette of 8-bit levels": Case(
        tiff(b"\1", (1, 1), {258: 8, 262: 3, 320: [0, 200, *[0] * 254] * 3}), [200, 200, 200]
    ),
    "no alpha": Case(tiff(bytes([1, 2, 3, 0]), (1, 1), {258: [8] * 4, 262: 2, 277: 4, 338: 0}), [1, 2, 3]),
    "premultiplied": Case(
        tiff(bytes([100, 0, 50, 128]), (1, 1), {258: [8] * 4, 262: 2, 277: 4, 338: 1}), [227, 127, 177], tolerance=1
    ),
    "predictor": Case(encoded(Image.fromarray(COLORS), "TIFF", compression="tiff_lzw", tiffinfo={317: 2}), COLORS),
    "other inks": Case(tiff(bytes(4), (1, 1), {258: [8] * 4, 262: 5, 277: 4, 332: 2}), refused="inks are not cyan"),
    "ICCLab": Case(tiff(bytes(3), (1, 1), {258: [8] * 3, 262: 9, 277: 3}), refused="ICCLab, 3 samples"),
    "sensor mosaic": Case(
        tiff(bytes(4), (2, 1), {258: 16, 262: 32803}), refused="camera raw file (the sensor's mosaic)"
    ),
    "linear raw": Case(tiff(bytes(6), (1, 1), {258: 16, 262: 34892, 277: 3}), refused="camera raw file"),
    "DNG": Case(tiff(b"\1", (1, 1), {258: 8, 262: 1, 50706: b"\1\4\0\0"}), refused="camera raw file"),
    "thumbnail of NEF, ARW": Case(tiff(b"\1", (1, 1), {254: 1, 258: 8, 262: 1}), refused="thumbnail of another one"),
    "CR2": Case(
        b"II*\0\x10\0\0\0CR\2\0\0\0\0\0"
        + struct.pack("<H", 7)
        + b"".join(
            struct.pack("<HHII", tag, 4, 1, value)
            for tag, value in ((256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (279, 1))
        )
        + bytes(4),
        refused="camera raw file",
    ),
}
"""names of the files -> cases"""

PROFILES = {
    "Adobe RGB, PNG": Case(
        encoded(Image.fromarray(COLORS), icc_profile=ROCKET), from_adobe(COLORS), tolerance=1, remark="Adobe RGB (1998)"
    ),
    "Adobe RGB, TIFF": Case(
        encoded(Image.fromarray(COLORS), "TIFF", icc_profile=ROCKET), from_adobe(COLORS), tolerance=1, remark="Adobe"
    ),
    "Adobe RGB, WebP": Case(
        encoded(Image.fromarray(COLORS), "WEBP", lossless=True, icc_profile=ROCKET),
        from_adobe(COLORS),
        tolerance=1,
        remark="Adobe",
    ),
    "Adobe RGB, JPEG 2000": Case(jp2(ROCKET), from_adobe(COLORS), tolerance=1, remark="Adobe"),
    "Adobe RGB, BMP": Case(bmp(ROCKET), from_adobe(COLORS), tolerance=1, remark="Adobe"),
    "Adobe RGB, JPEG by EXIF": Case(
        adobe_by_exif(), from_adobe(np.array([200, 60, 60])), tolerance=3, remark="Adobe RGB (1998)"
    ),
    "Adobe RGB, palette": Case(
        encoded(Image.fromarray(COLORS).quantize(256), icc_profile=ROCKET),
        from_adobe(COLORS),
        tolerance=1,
        remark="Adobe",
    ),
    "sRGB by its maker": Case(encoded(Image.fromarray(COLORS), icc_profile=SRGB_OF_HP), COLORS),
    "linear grey": Case(
        encoded(Image.fromarray(GRAYS), icc_profile=LINEAR_GRAY),
        coded(GRAYS / 255)[:, :, None],
        tolerance=1,
        remark="Crafted",
    ),
    "linear grey of 16 bits": Case(
        encoded(Image.fromarray(GRAYS.astype(np.uint16) * 257), icc_profile=LINEAR_GRAY),
        coded(GRAYS / 255)[:, :, None],
        tolerance=1,
        remark="Crafted",
    ),
    "CMYK of a press": Case(
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF", icc_profile=press_profile()),
        [119, 119, 119],
        tolerance=2,
        remark="Crafted",
    ),
    "CMYK of a press, JPEG": Case(
        encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG", icc_profile=press_profile(), quality=100),
        [119, 119, 119],
        tolerance=3,
        remark="Crafted",
    ),
    "profile of grey in RGB": Case(
        encoded(Image.fromarray(COLORS), icc_profile=PAGE), COLORS, remark="is for grey images, while it is RGB"
    ),
    "damaged profile": Case(
        encoded(Image.fromarray(COLORS), icc_profile=b"words" * 40), COLORS, remark="cannot be used"
    ),
    "LAB needs none": Case(
        encoded(Image.frombytes("LAB", (1, 1), bytes([138, 81, 70])), "TIFF", icc_profile=ROCKET),
        [255, 0, 0],
        tolerance=6,
    ),
}

CODE_POINTS = {
    "cICP of Display P3": Case(
        png(COLORS, chunk(b"cICP", bytes([12, 13, 0, 1]))),
        from_srgb_curve(COLORS, P3),
        tolerance=1,
        remark="Display P3",
    ),
    "cICP of BT.2020": Case(
        png(COLORS, chunk(b"cICP", bytes([9, 1, 0, 1]))), from_srgb_curve(COLORS, BT2020), tolerance=1, remark="BT.2020"
    ),
    "cICP of linear light": Case(
        png(COLORS, chunk(b"cICP", bytes([1, 8, 0, 1]))), coded(COLORS / 255), tolerance=1, remark="gamma 1"
    ),
    "cICP before iCCP": Case(
        png(COLORS, chunk(b"cICP", bytes([1, 13, 0, 1])), chunk(b"iCCP", b"a\0\0" + zlib.compress(ROCKET))), COLORS
    ),
    "cICP of sRGB": Case(png(COLORS, chunk(b"cICP", bytes([1, 13, 0, 1]))), COLORS),
    "cICP of PQ": Case(png(COLORS, chunk(b"cICP", bytes([9, 16, 0, 1]))), refused="HDR (PQ)"),
    "cICP of HLG": Case(png(COLORS, chunk(b"cICP", bytes([9, 18, 0, 1]))), refused="HDR (HLG)"),
    "cICP of XYZ": Case(png(COLORS, chunk(b"cICP", bytes([10, 13, 0, 1]))), refused="code points 10"),
    "gAMA and cHRM are left alone": Case(
        png(COLORS, chunk(b"gAMA", struct.pack(">I", 100000)), chunk(b"cHRM", struct.pack(">8I", *[33000] * 8))), COLORS
    ),
    "sBIT is left alone": Case(png(COLORS, chunk(b"sBIT", bytes([5, 6, 5]))), COLORS),
    "AVIF of sRGB": Case(avif(1, 13), [200, 60, 60], tolerance=2),
    "AVIF of Display P3": Case(
        avif(12, 13), from_srgb_curve(np.array([200, 60, 60]), P3), tolerance=3, remark="Display P3"
    ),
    "AVIF of PQ": Case(avif(9, 16), refused="HDR (PQ)"),
}

LEVELS = {
    "PGM of maxval 1023": Case(b"P5 3 1 1023\n" + struct.pack(">3H", 0, 512, 1023), grays(0, 128, 255)),
    "PPM of maxval 1023": Case(b"P6 1 1 1023\n" + struct.pack(">3H", 0, 512, 1023), [0, 128, 255], tolerance=1),
    "PPM of maxval 15": Case(b"P6 1 1 15\n\0\7\17", [0, 119, 255]),
    "JPEG 2000 of 16 bits": Case(
        encoded(Image.fromarray(np.array([[0, 257, 65535]], np.uint16)), "JPEG2000", irreversible=False),
        grays(0, 1, 255),
    ),
    "TGA without alpha": Case(tga(0), [1, 2, 3]),
    "TGA, all transparent": Case(tga(8), refused="every pixel of it is transparent"),
    **{f"{mode}, all transparent": Case(transparent(mode), refused="every pixel") for mode in ("RGBA", "LA")},
    "palette, all transparent": Case(
        encoded(Image.new("P", (4, 4)), "PNG", transparency=0), refused="every pixel of it is transparent"
    ),
    "MPO": Case(
        encoded(
            Image.new("RGB", (8, 8), "red"), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]
        ),
        [254, 0, 0],
        tolerance=1,
    ),
}

CASES = TIFFS | PROFILES | CODE_POINTS | LEVELS


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""what makes an image upright, by its orientation in EXIF"""


def turned(orientation: int) -> np.ndarray:
    """24x16 pixels with four different corners, as they are upright."""
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :12], stored[:8, 12:], stored[8:, :12], stored[8:, 12:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 90
    return TURNS[orientation](stored)


def oriented(kind: str, orientation: int) -> bytes:
    """A file of `turned`: JPEG, PNG, TIFF, WEBP or AVIF by EXIF; "KIND, XMP" by XMP; "PNG, late" behind the pixels."""
    image = Image.fromarray(turned(1))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}, "AVIF": {"quality": 95}}
    name, _, how = kind.partition(", ")
    options: dict[str, object] = dict(lossless.get(name, {}))
    if kind == "PNG, XMP":
        return png(turned(1), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    if kind == "PNG, late":
        return png(turned(1), after=chunk(b"eXIf", exif.tobytes()[6:]))
    if kind == "PNG, late XMP":
        return png(turned(1), after=chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    if kind == "TIFF, XMP":
        return encoded(image, "TIFF", tiffinfo={700: xmp})
    return encoded(image, name, **options, **({"xmp": xmp} if how == "XMP" else {"exif": exif}))


ORIENTED = (
    *("JPEG", "PNG", "TIFF", "WEBP", "AVIF", "JPEG, XMP", "PNG, XMP", "WEBP, XMP", "TIFF, XMP"),
    *("PNG, late", "PNG, late XMP"),
)
