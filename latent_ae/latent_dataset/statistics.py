"""What the latents of a data set look like: gathered shard by shard, written down, and added up in their order.

B c h w: images, latent channels and grid; K: codebook size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.evaluation.metrics.moments import Moments, rounded
from latent_ae.models.posterior import LOGVAR_RANGE


@dataclass(frozen=True)
class LatentSums:
    """Of posteriors: per channel, in float64. `count` values a channel, of which `mean` and `deviations` are."""

    images: int
    moments: Moments
    variance: Tensor
    """[c] sum of exp(logvar); 0 where no log-variance was kept"""
    low: Tensor
    high: Tensor
    """[c] of the means"""

    @classmethod
    def of(cls, mean: Tensor, logvar: Tensor | None) -> "LatentSums":
        """Posteriors [B,c,h,w], B > 0 of them, all finite."""
        values = mean.double().transpose(0, 1).flatten(1)
        variance = torch.zeros(len(values), dtype=torch.float64)
        if logvar is not None:
            variance = logvar.double().clamp(*LOGVAR_RANGE).exp().sum((0, 2, 3))
        return cls(len(mean), Moments.of(values.T), variance, values.amin(1), values.amax(1))

    def merged(self, other: "LatentSums") -> "LatentSums":
        """Of both."""
        return LatentSums(
            self.images + other.images,
            self.moments.merged(other.moments),
            self.variance + other.variance,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )

    def to_json(self) -> dict[str, Any]:
        """To the last bit, as `from_json` reads it."""
        return {
            "images": self.images,
            "values": self.moments.count,
            "mean": self.moments.mean.tolist(),
            "deviations": self.moments.deviations.tolist(),
            "variance": self.variance.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "LatentSums":
        """What `to_json` gave."""
        mean, deviations, variance, low, high = (
            torch.tensor(tree[name], dtype=torch.float64) for name in ("mean", "deviations", "variance", "low", "high")
        )
        return cls(tree["images"], Moments(tree["values"], mean, deviations), variance, low, high)

    def describe(self) -> dict[str, Any]:
        """For stats.json. `mode` are the posteriors' means, `sample` what is drawn from them, by the law of total
        variance; standard deviations are the population's. Scaled latents are (z - shift_factor) * scaling_factor.
        """
        modes = self.moments.variance
        samples = modes + self.variance / self.moments.count
        between = self.moments.mean.var(correction=0)  # channels have equally many values
        std = float((samples.mean() + between).sqrt())
        return {
            "images": self.images,
            "values_per_channel": self.moments.count,
            "mean": rounded(float(self.moments.mean.mean())),
            "std": rounded(std),
            "scaling_factor": rounded(1 / std) if std > 0 else None,
            "shift_factor": rounded(float(self.moments.mean.mean())),
            "mode_std": rounded(float((modes.mean() + between).sqrt())),
            "channel_mean": _rounded(self.moments.mean),
            "channel_std": _rounded(samples.sqrt()),
            "channel_mode_std": _rounded(modes.sqrt()),
            "channel_min": _rounded(self.low),
            "channel_max": _rounded(self.high),
            "protocol": "over every stored latent once; std, channel_std and scaling_factor are those of draws from "
            "the posterior where its log-variance was kept, else of the mean; min and max are the mean's",
        }


@dataclass(frozen=True)
class CodeSums:
    """Of codes: how often each is used. Only those that are."""

    images: int
    pixels: int
    uses: Mapping[int, int]

    @classmethod
    def of(cls, codes: Tensor, pixels: int) -> "CodeSums":
        """Codes [B,h,w] of images that have `pixels` pixels in all."""
        found, counts = codes.to(torch.int64).unique(return_counts=True)
        return cls(len(codes), pixels, dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def merged(self, other: "CodeSums") -> "CodeSums":
        """Of both."""
        uses = dict(self.uses)
        for code, count in other.uses.items():
            uses[code] = uses.get(code, 0) + count
        return CodeSums(self.images + other.images, self.pixels + other.pixels, dict(sorted(uses.items())))

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {
            "images": self.images,
            "pixels": self.pixels,
            "codes": list(self.uses),
            "uses": list(self.uses.values()),
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> "CodeSums":
        """What `to_json` gave."""
        return cls(tree["images"], tree["pixels"], dict(zip(tree["codes"], tree["uses"], strict=True)))

    def describe(self, codebook_size: int) -> dict[str, Any]:
        """For stats.json: as `latent-ae evaluate` describes a codebook."""
        statistics = CodebookStatistics(codebook_size)
        statistics.images, statistics.pixels = self.images, self.pixels
        statistics.uses[torch.tensor(list(self.uses))] = torch.tensor(list(self.uses.values()))
        return statistics.to_dict()


def merged(sums: Sequence[LatentSums] | Sequence[CodeSums]) -> LatentSums | CodeSums:
    """Of all of them, added up in their order; one at least."""
    total, *others = sums
    for other in others:
        total = total.merged(other)  # type: ignore[arg-type]  # all are of one kind
    return total


def sums_of(
    tensors: Mapping[str, Tensor], pixels: int, *, order: Sequence[str] | None = None
) -> LatentSums | CodeSums | None:
    """Of a shard's tensors by name, made of so many pixels; None if there are none.

    Sums are rounded, so that the last bit depends on the `order` of the grids in which they are added up: by name
    unless given.
    """
    sums: list[LatentSums] = []
    codes: list[CodeSums] = []
    for grid in order or sorted({name.partition(".")[2] for name in tensors}):
        if f"indices.{grid}" in tensors:
            codes.append(CodeSums.of(tensors[f"indices.{grid}"], 0 if codes else pixels))
        else:
            sums.append(LatentSums.of(tensors[f"mean.{grid}"], tensors.get(f"logvar.{grid}")))
    return merged(sums) if sums else merged(codes) if codes else None


def sums_from_json(tree: Mapping[str, Any]) -> LatentSums | CodeSums:
    """What `to_json` of either gave."""
    return CodeSums.from_json(tree) if "uses" in tree else LatentSums.from_json(tree)


def _rounded(values: Tensor) -> list[float]:
    return [rounded(value) for value in values.tolist()]
