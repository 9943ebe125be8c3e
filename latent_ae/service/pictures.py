"""Pictures of what is no picture: differences, latent channels, grids of codes."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import Latents

_PICTURE_SIDE = 512
"""pixels up to which small grids are enlarged"""
_OUTLIERS = 0.5
"""percent at each end of a channel's values that may be cut off"""


def latent_pictures(latents: Latents, codebook_size: int | None) -> tuple[Pixels, ...]:
    """Each latent channel of the first image as a grey picture, or its codes as one in colours."""
    if codebook_size is not None:
        return (code_picture(latents.tensor[0], codebook_size, latents.factor),)
    return channel_pictures(latents.tensor[0], latents.factor)


def difference_map(got: Pixels, wanted: Pixels, *, tolerance: float, gain: float) -> Pixels:
    """|got - wanted| times `gain`, at most 255; black where no channel differs by `tolerance` levels of 255 or more."""
    # At most 256 values: a table spares the floats of millions of pixels.
    shown = np.minimum(np.floor(np.arange(256) * gain + 0.5), 255).astype(np.uint8)
    difference = np.maximum(got, wanted) - np.minimum(got, wanted)
    picture: Pixels = shown[difference]
    picture[difference.max(axis=2) < tolerance] = 0
    return picture


def channel_pictures(latents: Tensor, factor: int) -> tuple[Pixels, ...]:
    """Latents [c,h,w] => one grey picture a channel, over its own range without its outliers.

    A position becomes a square of up to `factor` pixels. A channel that does not vary is grey.
    """
    pictures = []
    for channel in latents.float().numpy():
        low, high = np.percentile(channel, [_OUTLIERS, 100 - _OUTLIERS])
        shares = np.full(channel.shape, 0.5) if high <= low else np.clip((channel - low) / (high - low), 0, 1)
        levels = np.floor(shares * 255 + 0.5).astype(np.uint8)[:, :, None]
        pictures.append(_enlarged(levels, factor))
    return tuple(pictures)


def code_picture(codes: Tensor, size: int, factor: int) -> Pixels:
    """Codes [h,w] of a codebook of `size` => a picture in which each code has its own colour."""
    return _enlarged(palette(size)[codes.numpy()], factor)


def palette(size: int) -> NDArray[np.uint8]:
    """[size, 3] uint8: colours that are all different, neighbours far apart, black and white left out.

    Hues go round by the golden ratio; value and saturation change with each round. Beyond 2^16 colours some are alike.
    """
    numbers = np.arange(size, dtype=np.float64)
    hue = numbers * (math.sqrt(5) - 1) / 2 % 1
    value = 0.5 + 0.5 * (numbers * math.sqrt(2) % 1)
    saturation = 0.45 + 0.55 * (numbers * math.sqrt(3) % 1)
    # HSV: channel n is value * (1 - saturation * max(0, min(k, 4 - k, 1))), k = (n + 6 hue) mod 6, n = 5, 3, 1
    turn = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    share = np.clip(np.minimum(turn, 4 - turn), 0, 1)
    colors: NDArray[np.uint8] = np.floor(255 * value[:, None] * (1 - saturation[:, None] * share) + 0.5).astype(
        np.uint8
    )
    return colors


def _enlarged(picture: NDArray[np.uint8], factor: int) -> Pixels:
    times = max(1, min(factor, _PICTURE_SIDE // max(picture.shape[:2])))
    enlarged: Pixels = picture.repeat(times, axis=0).repeat(times, axis=1)
    return enlarged
