"""Classical codecs at the same number of bytes."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import Image

from latent_ae.io.image import Pixels, to_pil, to_uint8

_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WebP": {"method": 4}}
_QUALITIES = {"JPEG": (1, 95), "WebP": (0, 100)}
"""lowest and highest; above 95 a JPEG grows without looking better"""
_LONGEST_SIDE = {"JPEG": 65_500, "WebP": 16_383}
"""in pixels"""


class Compressed(NamedTuple):
    """An image after a classical codec."""

    image: Pixels
    bytes: int
    quality: int


def best_within(name: str, image: Pixels, most_bytes: int, check: Callable[[], None]) -> Compressed | None:
    """[H,W,C] after JPEG or WebP of the highest quality whose file has at most `most_bytes`.

    Of the lowest quality where even that takes more; None for an image that the format cannot hold. `check` is called
    before each attempt; what it raises ends the search.
    """
    if max(image.shape[:2]) > _LONGEST_SIDE[name]:
        return None
    picture = to_pil(image)
    low, high = _QUALITIES[name]

    def attempt(quality: int) -> bytes:
        check()
        stream = io.BytesIO()
        picture.save(stream, name, quality=quality, **_OPTIONS[name])
        return stream.getvalue()

    best, data = low, attempt(low)
    # A file grows with its quality but for single steps: what is found is within the bytes, and next to the best.
    while len(data) <= most_bytes and low < high:
        middle = (low + high + 1) // 2
        if len(file := attempt(middle)) <= most_bytes:
            best, data, low = middle, file, middle
        else:
            high = middle - 1
    with Image.open(io.BytesIO(data)) as decoded:
        return Compressed(to_uint8(decoded, image.shape[2]), len(data), best)
