"""What is in an image's latents, beside what was measured over the training images."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from latent_ae.evaluation.metrics import CodebookStatistics
from latent_ae.io.latent_file.latents import Latents
from latent_ae.models.posterior import kl_nats
from latent_ae.service.pictures import latent_pictures
from latent_ae.service.results import Inspection, ModelInfo

_EDGE, _BINS = 5.0, 50
"""the histogram covers -_EDGE to _EDGE; its outer bins hold all beyond"""


def inspect_latents(info: ModelInfo, latents: Latents) -> Inspection:
    """Of the latents of one image, with their log-variance where the model has one."""
    if info.codebook_size is not None:
        return _of_codes(info, latents, info.codebook_size)
    values = latents.tensor[0].double()
    scaled = (values - (info.shift_factor or 0.0)) * (1.0 if info.scaling_factor is None else info.scaling_factor)
    histogram = _histogram(scaled)
    channels = _channels(info, values, latents.logvar)
    mean, std = float(scaled.mean()), float(scaled.std(correction=0))
    text = (
        f"{latents.tensor[0].numel()} latent values for {latents.height * latents.width} pixels. "
        f"Scaled as a diffusion model sees them, (z - shift) x scale, they have mean {mean:.3g} and standard deviation "
        f"{std:.3g}; over many images 0 and 1 are expected, and one image may differ."
    )
    if info.stats is None:
        text += " Nothing was measured over this model's training images."
    return Inspection(
        model=info.id,
        histogram=histogram,
        channels=channels,
        codebook=None,
        code_counts=None,
        channel_images=latent_pictures(latents, None),
        text=text,
    )


def _of_codes(info: ModelInfo, latents: Latents, size: int) -> Inspection:
    statistics = CodebookStatistics(size)
    statistics.update(latents.tensor, pixels=latents.height * latents.width)
    said = statistics.to_dict()
    total = latents.tensor.numel()
    return Inspection(
        model=info.id,
        histogram=(),
        channels=(),
        codebook={name: said[name] for name in ("used", "codebook_size", "perplexity", "entropy_bits")},
        code_counts=tuple(statistics.uses.tolist()),
        channel_images=latent_pictures(latents, size),
        text=(
            f"{total} codes for {latents.height * latents.width} pixels, {said['used']} different ones of {size}. "
            f"Their entropy is {said['entropy_bits']:.3g} bits a code; an index takes {code_bits(size)}. "
            f"An image of {total} positions can use no more than {min(total, size)} codes."
        ),
    )


def code_bits(size: int) -> int:
    """Bits of an index into a codebook of `size`: ceil(log2 size), at least 1."""
    return max(1, (size - 1).bit_length())


def _histogram(scaled: Tensor) -> tuple[tuple[float, float, float], ...]:
    width = 2 * _EDGE / _BINS
    place = ((scaled.flatten() + _EDGE) / width).floor().clamp(0, _BINS - 1).long()
    shares = torch.bincount(place, minlength=_BINS).double() / scaled.numel()
    edges = [-_EDGE + width * i for i in range(_BINS + 1)]
    below = [0.0, *[_normal_below(edge) for edge in edges[1:-1]], 1.0]
    return tuple((edges[i] + width / 2, share, below[i + 1] - below[i]) for i, share in enumerate(shares.tolist()))


def _normal_below(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _channels(info: ModelInfo, values: Tensor, logvar: Tensor | None) -> tuple[dict[str, float | None], ...]:
    count = len(values)
    stats: dict[str, Any] = info.stats or {}
    sample = stats.get("sample") or {}
    columns: dict[str, Sequence[float | None]] = {
        "mean": _column(sample.get("channel_mean"), count),
        "std": _column(sample.get("channel_std"), count),
        "kl_nats": _column(stats.get("kl_nats_per_channel"), count),
        "active_share": _column((stats.get("active_units") or {}).get("share_per_channel"), count),
        "image_mean": values.mean((1, 2)).tolist(),
        "image_std": values.flatten(1).std(1, correction=0).tolist(),
        "image_kl_nats": [None] * count
        if logvar is None
        else kl_nats(values[None], logvar.double()).sum((0, 2, 3)).tolist(),
    }
    return tuple({name: column[i] for name, column in columns.items()} for i in range(count))


def _column(found: object, count: int) -> Sequence[float | None]:
    """A list of the stats file, which may be of any make."""
    return found if isinstance(found, list) and len(found) == count else [None] * count
