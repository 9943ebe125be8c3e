"""What is in an image's latents, and pictures of it: latent channels, grids of codes, differences."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import Latents
from latent_ae.models.adapters.normalisation import Normalisation
from latent_ae.models.posterior import kl_nats
from latent_ae.service.catalog import ModelInfo
from latent_ae.service.limits import require_number
from latent_ae.service.results import Inspection, code_bits

_EDGE, _BINS = 5.0, 50
"""the histogram covers -_EDGE to _EDGE; its outer bins hold all beyond"""
_PICTURE_SIDE = 512
"""pixels up to which small grids are enlarged"""
_OUTLIERS = 0.5
"""percent at each end of a channel's values that a picture clips"""


def inspect_latents(info: ModelInfo, latents: Latents, normalisation: Normalisation) -> Inspection:
    """The statistics of one image's latents, with their log-variance if the model has one.

    `normalisation` is what a diffusion model sees of them.
    """
    if info.codebook_size is not None:
        return _inspect_codes(info, latents, info.codebook_size)
    values = latents.tensor[0].double()
    scaled = normalisation.applied(values)
    text = (
        f"{values.numel()} latent values for {latents.height * latents.width} pixels. Scaled as a diffusion model sees "
        f"them, (z - shift) x scale, they have mean {scaled.mean():.3g} and standard deviation "
        f"{scaled.std(correction=0):.3g}; over many images 0 and 1 are expected, and one image may differ."
    )
    if info.stats is None:
        text += " Nothing was measured over this model's training images."
    return Inspection(
        model=info.id,
        histogram=_histogram(scaled),
        channels=_channels(info, values, latents.logvar),
        codebook=None,
        code_counts=None,
        channel_images=latent_pictures(latents, None),
        text=text,
    )


def latent_pictures(latents: Latents, codebook_size: int | None) -> tuple[Pixels, ...]:
    """Each latent channel of the first image as a grey picture, or its codes as one in colours."""
    if codebook_size is not None:
        return (code_picture(latents.tensor[0], codebook_size, latents.factor),)
    return channel_pictures(latents.tensor[0], latents.factor)


def channel_pictures(latents: Tensor, factor: int) -> tuple[Pixels, ...]:
    """Latents [c,h,w] => one grey picture per channel, over its own range without its outliers.

    A position becomes a square of up to `factor` pixels. A constant channel is grey.
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
    """[size, 3] uint8: colours that are all different, neighbours far apart, without black and white.

    The hue turns by the golden ratio; value and saturation change with each turn. Beyond 2^16 some colours are equal.
    """
    numbers = np.arange(size, dtype=np.float64)
    hue = numbers * (math.sqrt(5) - 1) / 2 % 1
    value = 0.5 + 0.5 * (numbers * math.sqrt(2) % 1)
    saturation = 0.45 + 0.55 * (numbers * math.sqrt(3) % 1)
    # HSV: channel n is value * (1 - saturation * max(0, min(k, 4 - k, 1))), k = (n + 6 hue) mod 6, n = 5, 3, 1
    turn = (np.array([5.0, 3.0, 1.0]) + 6 * hue[:, None]) % 6
    share = np.clip(np.minimum(turn, 4 - turn), 0, 1)
    levels = 255 * value[:, None] * (1 - saturation[:, None] * share)
    colors: NDArray[np.uint8] = np.floor(levels + 0.5).astype(np.uint8)
    return colors


def difference_map(got: Pixels, wanted: Pixels, *, tolerance: float, gain: float) -> Pixels:
    """|got - wanted| times `gain`, at most 255; black where no channel differs by `tolerance` levels of 255 or more.

    Raises BadRequest unless both numbers are from 0 to 255.
    """
    tolerance, gain = require_number("tolerance", tolerance, 0, 255), require_number("gain", gain, 0, 255)
    # A table of 256 values instead of floats for millions of pixels.
    shown = np.minimum(np.floor(np.arange(256) * gain + 0.5), 255).astype(np.uint8)
    difference = np.maximum(got, wanted) - np.minimum(got, wanted)
    picture: Pixels = shown[difference]
    picture[difference.max(axis=2) < tolerance] = 0
    return picture


def _inspect_codes(info: ModelInfo, latents: Latents, size: int) -> Inspection:
    pixels, total = latents.height * latents.width, latents.tensor.numel()
    statistics = CodebookStatistics(size)
    statistics.update(latents.tensor, pixels=pixels)
    values = statistics.to_dict()
    return Inspection(
        model=info.id,
        histogram=(),
        channels=(),
        codebook={name: values[name] for name in ("used", "codebook_size", "perplexity", "entropy_bits")},
        code_counts=tuple(statistics.uses.tolist()),
        channel_images=latent_pictures(latents, size),
        text=(
            f"{total} codes for {pixels} pixels, {values['used']} different ones of {size}. Their entropy is "
            f"{values['entropy_bits']:.3g} bits per code; an index takes {code_bits(size)}. An image of {total} "
            f"positions can use no more than {min(total, size)} codes."
        ),
    )


def _histogram(scaled: Tensor) -> tuple[tuple[float, float, float], ...]:
    """By bin: its middle, the share of values in it, and the share of N(0, 1)."""
    edges = torch.linspace(-_EDGE, _EDGE, _BINS + 1, dtype=torch.float64)
    places = ((scaled.flatten() + _EDGE) * _BINS / (2 * _EDGE)).floor().clamp(0, _BINS - 1).long()
    shares = torch.bincount(places, minlength=_BINS).double() / scaled.numel()
    below = torch.special.ndtr(edges)
    below[0], below[-1] = 0.0, 1.0
    middles = (edges[1:] + edges[:-1]) / 2
    return tuple(zip(middles.tolist(), shares.tolist(), below.diff().tolist(), strict=True))


def _channels(info: ModelInfo, values: Tensor, logvar: Tensor | None) -> tuple[dict[str, float | None], ...]:
    count = len(values)
    stats: dict[str, Any] = info.stats or {}
    sample = stats.get("sample") or {}
    kl = None if logvar is None else kl_nats(values[None], logvar.double()).sum((0, 2, 3)).tolist()
    columns: dict[str, Sequence[float | None]] = {
        "mean": _column(sample.get("channel_mean"), count),
        "std": _column(sample.get("channel_std"), count),
        "kl_nats": _column(stats.get("kl_nats_per_channel"), count),
        "active_share": _column((stats.get("active_units") or {}).get("share_per_channel"), count),
        "image_mean": values.mean((1, 2)).tolist(),
        "image_std": values.flatten(1).std(1, correction=0).tolist(),
        "image_kl_nats": _column(kl, count),
    }
    return tuple({name: column[i] for name, column in columns.items()} for i in range(count))


def _column(found: object, count: int) -> Sequence[float | None]:
    """A list with a value per channel, or None per channel for anything else that a stats file may hold."""
    return found if isinstance(found, list) and len(found) == count else [None] * count


def _enlarged(picture: NDArray[np.uint8], factor: int) -> Pixels:
    times = max(1, min(factor, _PICTURE_SIDE // max(picture.shape[:2])))
    enlarged: Pixels = picture.repeat(times, axis=0).repeat(times, axis=1)
    return enlarged
