"""What the latents of a data set look like: gathered shard by shard, written down, and added up in their order.

c h w: latent channels and grid; K: codebook size, None where latents are no codes.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from torch import Tensor

from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.evaluation.metrics.latents import LatentSums
from latent_ae.evaluation.metrics.moments import rounded, rounded_list

Sums = LatentSums | CodebookStatistics


def sums_of(
    tensors: Mapping[str, Tensor], pixels: int, codebook_size: int | None, *, order: Sequence[str] | None = None
) -> Sums | None:
    """Of a shard's tensors by name, made of so many pixels; None if there are none.

    Sums are rounded, so that the last bit depends on the `order` of the grids in which they are added up: by name
    unless given.
    """
    grids = order or sorted({name.partition(".")[2] for name in tensors})
    if not grids:
        return None
    if codebook_size is None:
        sums = [LatentSums.of(tensors[f"mean.{grid}"], tensors.get(f"logvar.{grid}")) for grid in grids]
        return reduce(LatentSums.merged, sums)
    codes = CodebookStatistics(codebook_size)
    for grid in grids:
        codes.add(tensors[f"indices.{grid}"])
    codes.pixels = pixels
    return codes


def sums_from_json(tree: Mapping[str, Any], codebook_size: int | None) -> Sums:
    """What `to_json` of either gave."""
    return LatentSums.from_json(tree) if codebook_size is None else CodebookStatistics.from_json(tree, codebook_size)


def merged(one: Sums, other: Sums) -> Sums:
    """Of both, which are of one kind."""
    if isinstance(one, LatentSums):
        return one.merged(other)  # type: ignore[arg-type]  # of the same kind
    one.merge(other)  # type: ignore[arg-type]  # likewise
    return one


def described(sums: Sums) -> dict[str, Any]:
    """For stats.json: codes as `latent-ae evaluate` describes them. Scaled latents are
    (z - shift_factor) * scaling_factor.
    """
    if isinstance(sums, CodebookStatistics):
        return sums.to_dict()
    mean, std = sums.mean_and_std("sample")
    return {
        "images": sums.images,
        "values_per_channel": sums.moments.count,
        "mean": rounded(mean),
        "std": rounded(std),
        "scaling_factor": rounded(1 / std) if std > 0 else None,
        "shift_factor": rounded(mean),
        "mode_std": rounded(sums.mean_and_std("mode")[1]),
        "channel_mean": rounded_list(sums.moments.mean),
        "channel_std": rounded_list(sums.channel_variance("sample").sqrt()),
        "channel_mode_std": rounded_list(sums.channel_variance("mode").sqrt()),
        "channel_min": rounded_list(sums.low),
        "channel_max": rounded_list(sums.high),
        "protocol": "over every stored latent once; std, channel_std and scaling_factor are those of draws from "
        "the posterior where its log-variance was kept, else of the mean; min and max are the mean's",
    }
