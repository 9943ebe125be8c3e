"""Tags of a TIFF that change what its values mean."""

from typing import IO

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin

from latent_ae.errors import BrokenImage

_SUBFILE, _BITS, _PHOTOMETRIC, _COLORMAP, _SUB_IFDS, _INK_SET = 254, 258, 262, 320, 330, 332
_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 277, 339, 50706
_RAW = {32803: "the sensor's mosaic", 34892: "the sensor's linear values"}
_PHOTOMETRICS = {3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB", 9: "ICCLab", 10: "ITULab", 32844: "LogL"} | {
    32845: "LogLuv",
    0: "grey",
    1: "grey",
    2: "RGB",
}
_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
_NOT_RAW = "develop it, and save that as PNG, JPEG or 8- or 16-bit TIFF"

Tags = TiffImagePlugin.ImageFileDirectory_v2


def check(image: Image.Image) -> None:
    """Refuse an opened TIFF whose first image is a thumbnail, or whose values have no meaning as levels.

    Raises BrokenImage.
    """
    tags: Tags = image.tag_v2  # type: ignore[attr-defined]
    stream: IO[bytes] = image.fp  # type: ignore[attr-defined]
    stream.seek(8)
    if _DNG_VERSION in tags or stream.read(2) == b"CR":
        raise BrokenImage(f"it is a camera raw file, whose first image is a thumbnail: {_NOT_RAW}")
    kind = tags.get(_SUBFILE, 0)
    if isinstance(kind, int) and kind & 1:
        raise BrokenImage(
            "its first image is a thumbnail of another one, as in camera raw files, which are not read: "
            f"{_NOT_RAW}, or save the larger image alone"
        )
    if tags.get(_PHOTOMETRIC) == 5 and tags.get(_INK_SET, 1) != 1:
        raise BrokenImage("its inks are not cyan, magenta, yellow and black: convert it to sRGB")
    if 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)) and image.mode in ("L", "I") and _bits(tags) != {32}:
        raise BrokenImage(
            f"its values are signed integers of {_numbers(_bits(tags))} bits, and where they are black and white "
            "is not said: scale them to 0..65535"
        )
    _widen_palette(image, tags)


def why_unknown(stream: IO[bytes]) -> str | None:
    """Why PIL does not open a TIFF; None if the stream holds none whose tags can be read."""
    stream.seek(0)
    head = stream.read(8)
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    try:
        if head[2:4] in (b"+\0", b"\0+"):
            head += stream.read(8)
        tags = Tags(head)
        stream.seek(tags.next)
        tags.load(stream)
        photometric = int(tags.get(_PHOTOMETRIC, 0))
        bits, kinds = _bits(tags), {int(kind) for kind in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1))}
        samples = int(tags.get(_SAMPLES, 1))
    except Exception:  # damaged tags make PIL raise nearly anything
        return None
    if photometric in _RAW or _DNG_VERSION in tags:
        return f"it is a camera raw file ({_RAW.get(photometric, 'DNG')}): {_NOT_RAW}"
    what = _PHOTOMETRICS.get(photometric, f"of the colour space {photometric}")
    values = "/".join(_FORMATS.get(kind, f"of format {kind}") for kind in sorted(kinds))
    return (
        f"it is a TIFF that cannot be read: {what}, {samples} sample{'s' if samples != 1 else ''} a pixel of "
        f"{_numbers(bits)} bits, {values}: save it as 8- or 16-bit grey or RGB"
    )


def in_full_range(image: Image.Image, tags: Tags) -> Image.Image:
    """A decoded 16-bit or float image with 12-bit values brought to 16 bits, and with 0 as black."""
    if image.mode not in ("I;16", "I;16B", "F"):
        return image
    values = np.asarray(image)
    if _bits(tags) == {12}:
        values = ((values.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
    elif tags.get(_PHOTOMETRIC, 0) != 0:
        return image
    if tags.get(_PHOTOMETRIC, 0) == 0:  # white is 0, which PIL minds for up to 8 bits only
        values = 1 - values if image.mode == "F" else 65535 - values
    return Image.fromarray(values)


def _bits(tags: Tags) -> set[int]:
    return {int(bits) for bits in np.atleast_1d(tags.get(_BITS, 1))}


def _numbers(values: set[int]) -> str:
    return "/".join(map(str, sorted(values)))


def _widen_palette(image: Image.Image, tags: Tags) -> None:
    """Some programs write the 16-bit levels of a palette as 0..255, which libtiff minds and PIL takes for black."""
    if image.mode in ("P", "PA") and 0 < max(levels := tags[_COLORMAP]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(levels))
