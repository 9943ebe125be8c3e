"""Whether a picture shows colours, whatever channels its file has."""

import numpy as np
from PIL import Image

_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_PROBE = 128
"""pixels a side that are looked at"""
_SPREAD = 24
"""levels between the channels of a pixel that is plainly coloured: scans of grey paper have a few"""
_COLORED_SHARE = 0.01
"""of the pixels"""


def has_color(image: Image.Image) -> bool:
    """Whether more than some pixels of a picture are plainly coloured; looks at a part of them."""
    if image.mode in _GREY_MODES:
        return False
    probe = image.resize((min(_PROBE, image.width), min(_PROBE, image.height)), Image.Resampling.NEAREST)
    pixels = np.asarray(probe.convert("RGB")).astype(np.int16)
    return bool((np.ptp(pixels, axis=2) > _SPREAD).mean() > _COLORED_SHARE)
