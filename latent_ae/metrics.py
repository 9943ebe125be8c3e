"""How close a reconstruction is to its image, and what the latents look like.

Images are [B, C, H, W] in [-1, 1]; a measure is one float32 number per image, [B]. Reconstructions are clamped to
[-1, 1] first, as they are when they become a file.
B C H W: images, colour channels, pixels; c h w: latent channels and grid.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional import image as torchmetrics_image

SSIM_MINIMUM_SIDE = 6  # the 11-pixel window's half, which the border is mirrored by, must fit into the image
MS_SSIM_MINIMUM_SIDE = (
    176  # torchmetrics asks for side // 16 > 10: the window must fit the fifth, 16-fold smaller scale
)
ACTIVE_VARIANCE = 0.01
LOGVAR_RANGE = (-30.0, 20.0)  # as in diffusers' DiagonalGaussianDistribution


def psnr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB: 10 log10(2^2 / MSE), over all pixels and channels of an image.

    Infinite for identical images; a mean has to decide what to make of that (`evaluation` counts them as 100 dB).
    """
    reconstruction, target = _comparable(reconstruction, target)
    return 10 * torch.log10(4 / (reconstruction - target).square().mean((1, 2, 3)))


def l1(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference [B], in units of the range [-1, 1]: 2 is black for white."""
    reconstruction, target = _comparable(reconstruction, target)
    return (reconstruction - target).abs().mean((1, 2, 3))


def ssim(reconstruction: Tensor, target: Tensor) -> Tensor | None:
    """Structural similarity [B] (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5, K = (0.01, 0.03).

    Measured on [0, 1] with data range 1, as the measure is defined: its luminance term compares means, so on [-1, 1]
    the same images would give other numbers. None if a side has fewer than 6 pixels.
    """
    images = _intensities(reconstruction, target)
    if min(target.shape[2:]) < SSIM_MINIMUM_SIDE:
        return None
    with torch.autocast(target.device.type, enabled=False):
        values = torchmetrics_image.structural_similarity_index_measure(*images, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.float()


def ms_ssim(reconstruction: Tensor, target: Tensor) -> Tensor | None:
    """Multi-scale structural similarity [B] (Wang et al. 2003), five scales, on [0, 1] as `ssim`.

    None if a side has fewer than 176 pixels: the fifth scale has no room for the window.
    """
    images = _intensities(reconstruction, target)
    if min(target.shape[2:]) < MS_SSIM_MINIMUM_SIDE:
        return None
    with torch.autocast(target.device.type, enabled=False):
        return torchmetrics_image.multiscale_structural_similarity_index_measure(
            *images, data_range=1.0, reduction="none"
        ).float()


def kl_nats(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) [B, c, h, w] in nats: (mean^2 + var - 1 - logvar) / 2.

    Kingma and Welling 2014, appendix B. `logvar` is clamped to [-30, 20] as diffusers does.
    """
    logvar = logvar.clamp(*LOGVAR_RANGE)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


class Scaling(NamedTuple):
    """Scaled latents are (z - shift_factor) * scaling_factor."""

    scaling_factor: float
    shift_factor: float


class LatentStatistics:
    """What the posteriors of a data set look like: float64, one pass, mergeable over processes.

    `mode` statistics describe the posterior means, `sample` statistics what `latent_dist.sample()` draws, by the law
    of total variance: Var[z] = Var[mean] + E[exp(logvar)]. Standard deviations are the population's (divided by n).
    Images with a mean or logvar that is not finite are counted and left out.
    """

    def __init__(self) -> None:
        self.images = 0
        """images in the statistics"""
        self.nonfinite_images = 0
        """images left out"""
        self.nonfinite_values = 0
        """their means and logvars that are not finite"""
        self._channels: _Moments | None = None
        self._units: _Moments | None = None  # None also once the images' latents differ in size
        self._variance = torch.zeros(0)  # sum of exp(logvar) per channel
        self._kl = torch.zeros(0)  # sum of the KL per channel

    def update(self, mean: Tensor, logvar: Tensor) -> None:
        """Add the posteriors of a batch, [B, c, h, w] each. Raises ValueError for other shapes or another c."""
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
            batch.images = len(mean)
            batch._channels = _Moments.of(mean.transpose(0, 1).flatten(1).T)
            batch._units = _Moments.of(mean)
            batch._variance = logvar.exp().sum((0, 2, 3))
            batch._kl = kl_nats(mean, logvar).sum((0, 2, 3))
        self.merge(batch)

    def merge(self, other: "LatentStatistics") -> None:
        """Add the images of `other`. Raises ValueError if its latents have another number of channels."""
        if other._channels is not None:
            if self._channels is None:
                self._channels, self._units = other._channels, other._units
                self._variance, self._kl = other._variance, other._kl
            elif self._channels.mean.shape != other._channels.mean.shape:
                got, expected = len(other._channels.mean), len(self._channels.mean)
                raise ValueError(f"latents must have {expected} channels as those before them, got {got}")
            else:
                self._units = _merged_if_alike(self._units, other._units)
                self._channels = self._channels.merged(other._channels)
                self._variance, self._kl = self._variance + other._variance, self._kl + other._kl
        self.images += other.images
        self.nonfinite_images += other.nonfinite_images
        self.nonfinite_values += other.nonfinite_values

    def scaling(self, of: Literal["sample", "mode"] = "sample") -> Scaling:
        """scaling_factor = 1 / std and shift_factor = mean, over all channels.

        Of samples by default, since `latent_dist.sample()` is what diffusion trains on: those have unit variance after
        scaling. Raises ValueError if there are no images, an image was left out, or the latents do not vary.
        """
        if self.nonfinite_images:
            total = self.images + self.nonfinite_images
            raise ValueError(
                f"scaling_factor cannot be measured: {self.nonfinite_images} of {total} images gave latents that are "
                "not finite; check the model's weights and precision"
            )
        mean, std = self._global(of)
        if not std > 0:
            raise ValueError(f"scaling_factor cannot be measured: the {of} latents' standard deviation is {std}")
        return Scaling(_rounded(1 / std), _rounded(mean))

    def to_dict(self) -> dict[str, Any]:
        """All of it for JSON, numbers to 9 digits so that the order in which shards were merged does not show.

        Raises ValueError if there are no finite images.
        """
        channels = self._moments()
        kl = self._kl / self.images
        return {
            "images": self.images,
            "nonfinite_images": self.nonfinite_images,
            "nonfinite_values": self.nonfinite_values,
            "latent_shape": None if self._units is None else list(self._units.mean.shape),
            "mode": self._described("mode"),
            "sample": self._described("sample"),
            "kl_nats_per_image": _rounded(float(kl.sum())),
            "kl_nats_per_value": _rounded(float(self._kl.sum()) / (channels.count * len(kl))),
            "kl_nats_per_channel": [_rounded(value) for value in kl.tolist()],
            "active_units": self._active_units(),
            "channel_signal_to_noise": [
                _rounded(value) for value in (channels.variance / (self._variance / channels.count)).tolist()
            ],
        }

    def _active_units(self) -> dict[str, Any] | None:
        """Burda et al. 2016, section 5.2: units with Var over the images of the posterior mean > 0.01."""
        if self.images < 2:
            return None  # nothing can vary
        variance = self._moments().variance[:, None] if self._units is None else self._units.variance.flatten(1)
        active = variance > ACTIVE_VARIANCE  # [c, units of a channel]
        return {
            "count": int(active.sum()),
            "total": active.numel(),
            "share": _rounded(float(active.double().mean())),
            "share_per_channel": [_rounded(value) for value in active.double().mean(1).tolist()],
            "protocol": f"posterior mean's variance over {self.images} images > {ACTIVE_VARIANCE}; a unit is "
            + ("a latent channel, as the images differ in size" if self._units is None else "a channel at a position"),
        }

    def _described(self, of: Literal["sample", "mode"]) -> dict[str, Any]:
        mean, std = self._global(of)
        channels = self._moments()
        return {
            "mean": _rounded(mean),
            "std": _rounded(std),
            "channel_mean": [_rounded(value) for value in channels.mean.tolist()],
            "channel_std": [_rounded(value) for value in self._channel_variance(of).sqrt().tolist()],
        }

    def _global(self, of: Literal["sample", "mode"]) -> tuple[float, float]:
        means = self._moments().mean  # channels have equally many values, so their plain mean is the global one
        return float(means.mean()), float((self._channel_variance(of).mean() + means.var(correction=0)).sqrt())

    def _channel_variance(self, of: Literal["sample", "mode"]) -> Tensor:
        channels = self._moments()
        return channels.variance + (self._variance / channels.count if of == "sample" else 0)

    def _moments(self) -> "_Moments":
        if self._channels is None:
            raise ValueError(f"there are no latents to describe: 0 finite images, {self.nonfinite_images} not finite")
        return self._channels


@dataclass(frozen=True)
class _Moments:
    """Count, mean and sum of squared deviations along the first axis, float64."""

    count: int
    mean: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, values: Tensor) -> "_Moments":
        mean = values.mean(0)
        return cls(len(values), mean, (values - mean).square().sum(0))

    def merged(self, other: "_Moments") -> "_Moments":
        """Chan, Golub and LeVeque 1983: exact for any split, without the cancellation of sums of squares."""
        count = self.count + other.count
        delta = other.mean - self.mean
        deviations = self.deviations + other.deviations + delta.square() * (self.count * other.count / count)
        return _Moments(count, self.mean + delta * (other.count / count), deviations)

    @property
    def variance(self) -> Tensor:
        return self.deviations / self.count


def _merged_if_alike(one: _Moments | None, other: _Moments | None) -> _Moments | None:
    if one is None or other is None or one.mean.shape != other.mean.shape:
        return None
    return one.merged(other)


def _comparable(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both float32 and within [-1, 1]."""
    if reconstruction.shape != target.shape or target.ndim != 4:
        raise ValueError(
            "reconstruction and target must be [B, C, H, W] of one shape, "
            f"got {tuple(reconstruction.shape)} and {tuple(target.shape)}"
        )
    return reconstruction.float().clamp(-1, 1), target.float()


def _intensities(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in [0, 1]; float64 on CUDA, whose float32 convolutions may round to TF32's 10 bits.

    Variances are taken as E[x^2] - E[x]^2, where little is left of 10 bits.
    """
    dtype = torch.float64 if target.is_cuda else torch.float32
    reconstruction, target = _comparable(reconstruction, target)
    return (reconstruction.to(dtype) + 1) / 2, (target.to(dtype) + 1) / 2


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
