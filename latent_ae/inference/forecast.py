"""What to say of a large image before work on it begins."""

import math
from collections.abc import Sequence

from latent_ae.inference import batching
from latent_ae.inference.codec import Codec
from latent_ae.inference.precision import SideName
from latent_ae.inference.tiling import Tiling
from latent_ae.inference.timing import duration

LONG_SECONDS = 600.0
"""of attention alone, from which on it is said how long tiles would take"""
_TILE = 1024
"""pixels a side of these tiles"""


def forecast(codec: Codec, sides: Sequence[SideName], height: int, width: int) -> list[str]:
    """Sentences about an image of this size in pixels that goes through these sides, each to follow on its name."""
    said = []
    inexact = [
        side
        for side in sides
        if codec.compute(side, height, width).precision != getattr(codec.precision, side).precision
    ]
    if inexact:
        said.append(
            f"does not fit into memory whole: the {' and the '.join(inexact)} computes it in strips, in fp32, which is "
            "exact up to the order of sums"
        )
    factor = codec.factor
    pixels = math.ceil(height / factor) * math.ceil(width / factor) * factor**2
    if pixels <= batching.STREAMED_PIXELS:  # to find out would take longer than a small image does
        return said
    paces = [pace for side, pace in zip(("encoder", "decoder"), codec.paces, strict=True) if side in sides]
    attention = sum(pace.attention_seconds(pixels) for pace in paces)
    if attention >= LONG_SECONDS:
        tiles = Tiling.of_pixels(_TILE, factor).count(math.ceil(height / factor), math.ceil(width / factor))
        in_tiles = tiles * sum(pace.seconds(_TILE**2) for pace in paces)
        said.append(
            f"takes about {duration(sum(pace.seconds(pixels) for pace in paces))}, {duration(attention)} of them for "
            f"attention, which grows with the square of the pixels: --tile {_TILE}, an approximation, would take about "
            f"{duration(in_tiles)}"
        )
    return said
