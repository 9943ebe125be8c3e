"""Colours as sRGB: what a file says that its values mean, and their conversion by littlecms.

Conversions are relative colorimetric with black point compensation, in 8 bits. Profiles that mean sRGB change no bit.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import takewhile
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms

from latent_ae.errors import BrokenImage, one_line
from latent_ae.io.image_file.containers import boxes, contents, place_kept, png_chunks

_LARGEST_PROFILE = 1 << 22
"""bytes; those of printing presses have about 2 MiB"""
_SAME_LEVELS = 2
"""of 255: no more than that lies between the sRGB profiles of different makers"""
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_WORDS = {"RGB ": "RGB", "GRAY": "grey"}
_MODE_WORDS = {"RGB": "RGB", "L": "grey", "CMYK": "CMYK"}
_GREY = ("1", "L", "LA", "La", "I", "F")

_D65 = (0.3127, 0.3290)
_PRIMARIES = {
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),  # BT.470BG, of PAL
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, of NTSC
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
"""x, y of red, green, blue by their numbers in ITU-T H.273; 1 (BT.709) and 2 (unspecified) are those of sRGB"""
_PRIMARY_NAMES = {1: "BT.709", 2: "BT.709", 5: "BT.470BG", 6: "BT.601", 7: "BT.601", 9: "BT.2020", 12: "Display P3"}
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_ADOBE = ((0.640, 0.330), (0.210, 0.710), (0.150, 0.060))
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
"""g, a, b, c, d: (a v + b)^g from d on, c v below"""
_CURVES = {4: (2.2,), 5: (2.8,), 8: (1.0,)} | dict.fromkeys((1, 2, 6, 13, 14, 15), _SRGB_CURVE)
"""by their numbers in ITU-T H.273; video's curve (1, 6, 14, 15) is shown by sRGB's in every browser"""
_HDR = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class Profile:
    """What the values of an image mean."""

    icc: bytes
    """an ICC profile"""


def declared_profile(image: Image.Image) -> Profile | None:
    """What an opened file that is not decoded yet says about its colours; None if nothing, which means sRGB.

    An ICC profile, the video code points of PNG and AVIF (cICP, nclx), or the EXIF mark R03 of Adobe RGB. A PNG's
    gAMA, cHRM and sRGB are left alone, as they are by PyTorch's and Pillow's users. Raises BrokenImage for HDR.
    """
    stream: IO[bytes] | None = getattr(image, "fp", None)
    icc = image.info.get("icc_profile")
    codes = None
    if stream is not None and image.format in ("PNG", "JPEG2000", "AVIF", "HEIF", "BMP"):
        with place_kept(stream):
            if image.format == "PNG":
                ahead = takewhile(lambda part: part.name != b"IDAT", png_chunks(stream))  # pixels may be many chunks
                codes = next((contents(stream, part) for part in ahead if part.name == b"cICP"), None)
            elif image.format == "JPEG2000":
                icc = next((data[3:] for data in _color_boxes(stream, (b"jp2h", b"colr")) if data[:1] == b"\2"), None)
            elif image.format == "BMP":
                icc = _bmp_profile(stream)
            elif icc is None:
                path = (b"meta", b"iprp", b"ipco", b"colr")
                # The primary image's comes first; others are those of gain maps and previews.
                codes = next((data[4:] for data in _color_boxes(stream, path) if data[:4] == b"nclx"), None)
                codes = None if codes is None else codes[1:4:2] + b"\0"
    if codes is not None and len(codes) >= 2:
        return _of_codes(codes[0], codes[1])
    if icc:
        return Profile(bytes(icc))
    if image.format in ("JPEG", "MPO", "TIFF", "WEBP", "AVIF") and _is_adobe_by_exif(image):
        return Profile(matrix_profile("Adobe RGB (1998)", _ADOBE, (563 / 256,)))
    return None


def _color_boxes(stream: IO[bytes], path: tuple[bytes, ...]) -> list[bytes]:
    return [contents(stream, part) for part in boxes(stream, path)]


def _bmp_profile(stream: IO[bytes]) -> bytes | None:
    """The profile in the header of version 5."""
    stream.seek(14)
    header = stream.read(124)
    if len(header) < 124 or int.from_bytes(header[:4], "little") < 124 or header[56:60] != b"DEBM":
        return None
    start, size = struct.unpack("<II", header[112:120])
    stream.seek(14 + start)
    return stream.read(min(size, _LARGEST_PROFILE + 1))


def _is_adobe_by_exif(image: Image.Image) -> bool:
    try:
        exif = image.getexif()
        return exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except Exception:  # broken EXIF makes PIL raise nearly anything, and counts as none
        return False


def _of_codes(primaries: int, transfer: int) -> Profile | None:
    if transfer in _HDR:
        raise BrokenImage(
            f"its levels are HDR ({_HDR[transfer]}), and what they are on an sRGB screen is a choice: convert it to an "
            "SDR image first"
        )
    curve = _CURVES.get(transfer)
    corners = _BT709 if primaries in (1, 2) else _PRIMARIES.get(primaries)
    if curve is None or corners is None:
        raise BrokenImage(
            f"its colours are of the video code points {primaries} (primaries) and {transfer} (transfer), which are "
            "not supported: convert it to sRGB first"
        )
    if corners == _BT709 and curve == _SRGB_CURVE:
        return None
    how = "" if curve == _SRGB_CURVE else f", gamma {curve[0]:g}"
    return Profile(matrix_profile(f"{_PRIMARY_NAMES[primaries]}{how}", corners, curve))


def to_srgb(image: Image.Image, profile: Profile) -> Image.Image:
    """An opaque image of mode L, RGB or CMYK -> L or RGB in sRGB, for a profile that `changes_colors`."""
    conversion = _conversion(profile.icc, image.mode)
    if image.mode == "L":
        return image.point(conversion.levels)
    assert conversion.transform is not None, "the profile changes no colours"
    return _applied(image, conversion.transform)


def color_mode(image: Image.Image) -> str | None:
    """L, RGB or CMYK: what a profile of the image has to be for. None for LAB, whose values need no profile."""
    if image.mode in _GREY or image.mode.startswith("I;16"):
        return "L"
    return {"CMYK": "CMYK", "LAB": None}.get(image.mode, "RGB")


def changes_colors(profile: Profile, mode: str) -> bool:
    """Whether the profile means something else than sRGB for images of that mode and can be applied."""
    conversion = _conversion(profile.icc, mode)
    return conversion.transform is not None or bool(conversion.levels)


def remark_on(profile: Profile, mode: str) -> str | None:
    """What a person should know about what the profile does to an image of that mode: nothing if it means sRGB."""
    return _conversion(profile.icc, mode).remark


def profile_name(profile: Profile) -> str:
    """As it calls itself."""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile.icc)))
    except (ImageCms.PyCMSError, OSError):
        return "a damaged profile"
    name = "".join(letter for letter in " ".join(name.split()) if letter.isprintable())
    return name[:80] or "an unnamed profile"


@dataclass(frozen=True)
class _Conversion:
    remark: str | None
    transform: ImageCms.ImageCmsTransform | None = None
    """of RGB and CMYK; None for a profile that is not applied"""
    levels: tuple[int, ...] = ()
    """of grey, for each of the 256"""


@lru_cache(maxsize=32)
def _conversion(icc: bytes, mode: str) -> _Conversion:
    if len(icc) > _LARGEST_PROFILE:
        return _left(f"has {len(icc):,} bytes")
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(icc))
        space = opened.profile.xcolor_space
        if _SPACES.get(space) != mode:
            return _left(f"is for {_WORDS.get(space, space.strip())} images, while it is {_MODE_WORDS[mode]}")
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if mode == "L":  # littlecms resamples curves of grey, too coarsely for the dark end of a steep one
            flags |= ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(
            opened, ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        return _left(f"cannot be used ({one_line(error)})")
    remark = f"had colours of {profile_name(Profile(icc))}, which were converted to sRGB"
    if mode == "CMYK":
        return _Conversion(remark, transform)
    probe = _probe(mode)
    after = np.asarray(_applied(probe, transform)).astype(int)
    if np.abs(after - np.asarray(probe.convert("RGB"))).max() <= _SAME_LEVELS:
        return _Conversion(None)
    return _Conversion(remark, levels=tuple(after[0, :, 1].tolist())) if mode == "L" else _Conversion(remark, transform)


def _left(why: str) -> _Conversion:
    return _Conversion(f"had a colour profile that {why}, so that its values were taken as sRGB")


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None, "it was not asked to work in place"
    del converted.info["icc_profile"]  # sRGB's
    return converted


def _probe(mode: str) -> Image.Image:
    """One row of all levels of grey, or of colours from all over the cube."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))


def matrix_profile(name: str, primaries: Sequence[tuple[float, float]], curve: tuple[float, ...]) -> bytes:
    """An ICC profile (version 4) of RGB values.

    Args:
        name: its description, in ASCII.
        primaries: x, y of red, green and blue; white is D65.
        curve: (g,) for v^g, or (g, a, b, c, d) as of ICC's parametric curve 3.
    """

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    columns = _bradford() @ _rgb_to_xyz(primaries)
    text = name.encode("utf-16-be")
    described = b"mluc\0\0\0\0" + struct.pack(">II4sII", 1, 12, b"enUS", len(text), 28) + text
    curved = b"para\0\0\0\0" + struct.pack(">HH", 3 if len(curve) > 1 else 0, 0) + fixed(*curve)
    tags = {b"desc": described, b"cprt": described, b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249)}
    tags |= {b"chad": b"sf32\0\0\0\0" + fixed(*_bradford().flatten())}
    tags |= {channel + b"XYZ": b"XYZ \0\0\0\0" + fixed(*columns[:, i]) for i, channel in enumerate((b"r", b"g", b"b"))}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curved)
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s", start + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head = (head + bytes(28) + fixed(0.9642, 1.0, 0.8249)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + body


def _rgb_to_xyz(primaries: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """[3,3]: linear RGB, white D65 -> XYZ."""
    columns = np.array([_xyz(*corner) for corner in primaries]).T
    return columns * np.linalg.solve(columns, _xyz(*_D65))


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _bradford() -> NDArray[np.float64]:
    """[3,3]: XYZ under D65 -> under D50, which profiles count in."""
    cones = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gains = (cones @ np.array([0.9642, 1.0, 0.8249])) / (cones @ _xyz(*_D65))
    return np.asarray(np.linalg.solve(cones, gains[:, None] * cones))
