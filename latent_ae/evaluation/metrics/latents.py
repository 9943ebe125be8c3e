"""Statistics of Gaussian posteriors.

B c h w: images, latent channels and grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.moments import Moments, merged, rounded, rounded_list
from latent_ae.models.posterior import LOGVAR_RANGE, kl_nats

ACTIVE_VARIANCE = 0.01


class Scaling(NamedTuple):
    """Scaled latents are (z - shift_factor) * scaling_factor."""

    scaling_factor: float
    shift_factor: float

    def scaled(self, latents: Tensor) -> Tensor:
        """Raw latents of any shape => scaled latents."""
        return (latents - self.shift_factor) * self.scaling_factor


@dataclass(frozen=True)
class LatentSums:
    """Sums over posteriors, per channel, in float64."""

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

    def channel_variance(self, of: Literal["sample", "mode"]) -> Tensor:
        """[c] of the population: of the posteriors' means, or of what is drawn, by the law of total variance."""
        return self.moments.variance + (self.variance / self.moments.count if of == "sample" else 0)

    def mean_and_std(self, of: Literal["sample", "mode"]) -> tuple[float, float]:
        """Over all channels, which have equally many values each."""
        means = self.moments.mean
        return float(means.mean()), float((self.channel_variance(of).mean() + means.var(correction=0)).sqrt())

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


class LatentStatistics:
    """Statistics of the posteriors of a data set: float64, one pass, mergeable over processes.

    `mode` statistics describe the posterior means, `sample` statistics what `latent_dist.sample()` draws, by the law
    of total variance: Var[z] = Var[mean] + E[exp(logvar)]. Standard deviations are the population's (divided by n).
    Images with a mean or logvar that is not finite are counted and left out.
    """

    def __init__(self) -> None:
        self.nonfinite_images = 0
        """images left out"""
        self.nonfinite_values = 0
        """their means and logvars that are not finite"""
        self._sums: LatentSums | None = None
        self._units: Moments | None = None  # None also once the images' latents differ in size
        self._kl: Tensor | None = torch.zeros(0)  # sum of the KL per channel; None without a posterior

    @property
    def images(self) -> int:
        """Images in the statistics."""
        return 0 if self._sums is None else self._sums.images

    @property
    def has_posterior(self) -> bool:
        """Whether the latents have a variance, unlike those of a codebook or a plain autoencoder."""
        return self._kl is not None

    def update(self, mean: Tensor, logvar: Tensor | None) -> None:
        """Add the posteriors of a batch, [B, c, h, w] each; no logvar where latents are certain.

        Raises ValueError for other shapes or another c.
        """
        certain = logvar is None
        logvar = torch.full_like(mean, LOGVAR_RANGE[0]) if logvar is None else logvar
        if mean.shape != logvar.shape or mean.ndim != 4:
            raise ValueError(
                f"mean and logvar must be [B, c, h, w] of one shape, got {tuple(mean.shape)} and {tuple(logvar.shape)}"
            )
        mean, logvar = (values.detach().to("cpu").to(torch.float64) for values in (mean, logvar))
        bad = ~torch.isfinite(torch.stack([mean, logvar]))
        finite = ~bad.any(0).flatten(1).any(1)
        batch = LatentStatistics()
        batch.nonfinite_values = int(bad.sum())
        batch.nonfinite_images = int((~finite).sum())
        mean, logvar = mean[finite], logvar[finite].clamp(*LOGVAR_RANGE)
        if len(mean):
            batch._sums = LatentSums.of(mean, None if certain else logvar)
            batch._units = Moments.of(mean)
            batch._kl = None if certain else kl_nats(mean, logvar).sum((0, 2, 3))
        self.merge(batch)

    def merge(self, other: "LatentStatistics") -> None:
        """Add the images of `other`. Raises ValueError if its latents have another number of channels."""
        if other._sums is not None:
            if self._sums is None:
                self._sums, self._units, self._kl = other._sums, other._units, other._kl
            else:
                self._sums = self._sums.merged(other._sums)
                alike = self._units and other._units and self._units.mean.shape == other._units.mean.shape
                self._units = merged(self._units, other._units) if alike else None
                self._kl = None if self._kl is None or other._kl is None else self._kl + other._kl
        self.nonfinite_images += other.nonfinite_images
        self.nonfinite_values += other.nonfinite_values

    def scaling(self, of: Literal["sample", "mode"] = "sample") -> Scaling:
        """scaling_factor = 1 / std and shift_factor = mean, over all channels.

        Of samples by default, since `latent_dist.sample()` is what diffusion trains on: those have unit variance after
        scaling. Raises UserError if there are no images, an image was left out, or the latents do not vary.
        """
        if self.nonfinite_images:
            total = self.images + self.nonfinite_images
            raise UserError(
                f"scaling_factor cannot be measured: {self.nonfinite_images} of {total} images gave latents that are "
                "not finite: check the model's weights and precision"
            )
        mean, std = self._finite_sums().mean_and_std(of)
        if not std > 0:
            raise UserError(
                f"scaling_factor cannot be measured: the {of} latents' standard deviation is {std}, so the encoder "
                "tells no image from another: train with other settings"
            )
        return Scaling(rounded(1 / std), rounded(mean))

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, numbers to 9 digits so that the order in which shards were merged does not show.

        Raises UserError if there are no finite images.
        """
        sums = self._finite_sums()
        return {
            "images": sums.images,
            "nonfinite_images": self.nonfinite_images,
            "nonfinite_values": self.nonfinite_values,
            "latent_shape": None if self._units is None else list(self._units.mean.shape),
            "mode": _described(sums, "mode"),
            "sample": _described(sums, "sample"),
            **self._posterior(sums),
            "active_units": self._active_units(sums),
        }

    def _posterior(self, sums: LatentSums) -> dict[str, Any]:
        if self._kl is None:
            return dict.fromkeys(
                ("kl_nats_per_image", "kl_nats_per_value", "kl_nats_per_channel", "channel_signal_to_noise")
            )
        kl, channels = self._kl / sums.images, sums.moments
        signal_to_noise = channels.variance / (sums.variance / channels.count)
        return {
            "kl_nats_per_image": rounded(float(kl.sum())),
            "kl_nats_per_value": rounded(float(self._kl.sum()) / (channels.count * len(kl))),
            "kl_nats_per_channel": rounded_list(kl),
            "channel_signal_to_noise": rounded_list(signal_to_noise),
        }

    def _active_units(self, sums: LatentSums) -> dict[str, Any] | None:
        """Burda et al. 2016, section 5.2: units with Var over the images of the posterior mean > 0.01."""
        if sums.images < 2:
            return None  # nothing can vary
        variance = sums.moments.variance[:, None] if self._units is None else self._units.variance.flatten(1)
        active = variance > ACTIVE_VARIANCE  # [c, units of a channel]
        return {
            "count": int(active.sum()),
            "total": active.numel(),
            "share": rounded(float(active.double().mean())),
            "share_per_channel": rounded_list(active.double().mean(1)),
            "protocol": f"variance of the mode over {sums.images} images > {ACTIVE_VARIANCE}; a unit is "
            + ("a latent channel, as the images differ in size" if self._units is None else "a channel at a position"),
        }

    def _finite_sums(self) -> LatentSums:
        if self._sums is None:
            raise UserError(f"there are no latents to describe: 0 finite images, {self.nonfinite_images} not finite")
        return self._sums


def _described(sums: LatentSums, of: Literal["sample", "mode"]) -> dict[str, Any]:
    mean, std = sums.mean_and_std(of)
    return {
        "mean": rounded(mean),
        "std": rounded(std),
        "channel_mean": rounded_list(sums.moments.mean),
        "channel_std": rounded_list(sums.channel_variance(of).sqrt()),
    }
