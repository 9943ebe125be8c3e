"""Written in a PNG: what it was made of, and by what. So a later run knows whether it has to be made again."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from latent_ae.io.atomic import write_atomically
from latent_ae.io.image import Pixels, to_pil
from latent_ae.io.image_file.opening import reading

KEY = "latent_ae"
"""of the text chunk"""

_END = b"\0\0\0\0IEND\xaeB`\x82"
"""the last chunk of a PNG, which PIL does not insist on"""
_COMPRESSION = 3
"""twice as fast as zlib's usual 6, and photographs become 7 % larger"""


def write_recorded_png(path: Path, pixels: Pixels, record: Mapping[str, object], profile: bytes | None = None) -> None:
    """Write [H,W,1 or 3] uint8 as a PNG, whole or not at all, with a record in it. Raises OSError.

    `profile` is the ICC profile of its colours; None for sRGB.
    """
    text = PngInfo()
    text.add_text(KEY, json.dumps(record, sort_keys=True))
    stream = io.BytesIO()
    to_pil(pixels).save(stream, "PNG", pnginfo=text, compress_level=_COMPRESSION, icc_profile=profile)
    write_atomically(path, stream.getvalue())


def read_record(path: Path) -> tuple[dict[str, object], tuple[int, int]] | None:
    """The record in a PNG and its height and width; None if there is no such file, it is damaged, or it has none."""
    try:
        data = path.read_bytes()
        with reading(limited=False), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            record, size = json.loads(image.info[KEY]), (image.height, image.width)
            image.verify()  # every chunk's checksum
    except Exception:  # a file that cannot be read is one that has to be made again, whatever is wrong with it
        return None
    return (record, size) if isinstance(record, dict) and data.endswith(_END) else None
