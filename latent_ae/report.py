"""What an evaluation found: numbers that carry their protocol, and what a person should look at first."""

import json
import math
from typing import Any

from pydantic import BaseModel, ConfigDict

PRIOR_STD_RANGE = (0.7, 1.4)
"""standard deviation of raw latents between which draws from N(0, 1) are like them"""
SCALED_STD_RANGE = (0.8, 1.25)
_COLLAPSED_SHARE = 0.1
_COLLAPSED_NATS = 0.01
_USED_SHARE = 0.5
_REMEDY = "lower loss.beta, warm it up (loss.beta_schedule linear) or give loss.free_bits"


class Metric(BaseModel):
    """One number and what it takes to compare it with another."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    """mean over the images; None for `reason`"""
    unit: str
    protocol: str
    images: int
    """images in the mean"""
    reason: str | None = None


class EvaluationReport(BaseModel):
    """The held-out measures of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    images: int
    complete: bool
    """False if the measuring was stopped before the last image"""
    protocol: dict[str, str]
    metrics: dict[str, Metric]
    color_bias: tuple[float | None, ...]
    """mean over the images of reconstruction - image by channel, on [-1, 1]: a tint; None where it is not finite"""
    latents: dict[str, Any] | None
    """`LatentStatistics.to_dict()` of the raw latents and, under `scaled`, their means and standard deviations after
    the model config's scaling_factor and shift_factor; None without finite latents"""
    codebook: dict[str, Any] | None
    """`CodebookStatistics.to_dict()`; None where there is no codebook"""
    equivariance: dict[str, Any] | None
    """`EquivarianceStatistics.to_dict()`; None unless asked for"""
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Indented JSON without NaN or infinity."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"

    def summary(self) -> str:
        """A table for the terminal."""
        lines = [f"{self.protocol['data']}: {self.images} images{'' if self.complete else ' (stopped early)'}"]
        for name, metric in self.metrics.items():
            value = f"- ({metric.reason})" if metric.value is None else f"{metric.value:.5g} {metric.unit}".rstrip()
            lines.append(f"  {name:<22} {value}")
        lines.append(f"  {'colour bias':<22} " + shown_bias(self.color_bias))
        if self.codebook is not None:
            codebook = self.codebook
            lines.append(
                f"  {'codebook':<22} {codebook['used']} of {codebook['codebook_size']} codes used, perplexity "
                f"{codebook['perplexity']:.5g}, {codebook['bits_per_pixel_uniform']:.4g} bits per pixel "
                f"({codebook['bits_per_pixel_entropy']:.4g} at the codes' entropy)"
            )
        if self.equivariance is not None:
            errors = {name: entry["error"] for name, entry in self.equivariance.items()}
            shown = ", ".join(f"{name} {error:.3g}" for name, error in errors.items() if error is not None)
            lines.append(f"  {'equivariance error':<22} {shown or '-'}")
        if self.latents is not None:
            for name, of in (("latent mean, std", self.latents["sample"]), ("  after scaling", self.latents["scaled"])):
                lines.append(f"  {name:<22} {of['mean']:.4g}, {of['std']:.4g}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def shown_bias(color_bias: tuple[float | None, ...]) -> str:
    """A colour bias by channel, for people."""
    return ", ".join("-" if bias is None else f"{bias:+.4f}" for bias in color_bias)


def mean_metric(values: dict[str, float], *, unit: str, protocol: str, absent: str) -> Metric:
    """The mean of a measure over images by their id; without images or with one that is not finite, the reason."""
    bad = sorted(sample_id for sample_id, value in values.items() if not math.isfinite(value))
    reason = None if values else absent
    if bad:
        reason = f"{len(bad)} of {len(values)} images gave values that are not finite, the first of them {bad[0]!a}"
    # fsum rounds once, so that the order of the values does not show
    mean = None if reason else math.fsum(values.values()) / len(values)
    return Metric(value=mean, unit=unit, protocol=protocol, images=0 if reason else len(values), reason=reason)


def scaled_latents(latents: dict[str, Any], *, scaling_factor: float, shift_factor: float) -> dict[str, Any]:
    """The `sample` statistics of `LatentStatistics.to_dict()` after (z - shift_factor) * scaling_factor."""
    raw = latents["sample"]
    return {
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
        "mean": (raw["mean"] - shift_factor) * scaling_factor,
        "std": raw["std"] * scaling_factor,
        "channel_mean": [(mean - shift_factor) * scaling_factor for mean in raw["channel_mean"]],
        "channel_std": [std * scaling_factor for std in raw["channel_std"]],
    }


def latent_warnings(latents: dict[str, Any]) -> list[str]:
    """What is wrong with the latents of a report, in plain language; `latents` as in EvaluationReport."""
    found = []
    if bad := latents["nonfinite_images"]:
        found.append(
            f"{bad} of {bad + latents['images']} images gave latents that are not finite; they are left out of the "
            "latent statistics: check the model's weights and precision"
        )
    if (units := latents["active_units"]) is not None and latents["kl_nats_per_value"] is not None:
        found += _collapse(latents, units)
    scaled = latents["scaled"]
    if not SCALED_STD_RANGE[0] <= scaled["std"] <= SCALED_STD_RANGE[1]:
        measured = f"{1 / latents['sample']['std']:.5g}" if latents["sample"]["std"] else "not to be had"
        found.append(
            f"scaled latents have a standard deviation of {scaled['std']:.4g}, diffusion expects about 1 "
            f"({SCALED_STD_RANGE[0]:g} to {SCALED_STD_RANGE[1]:g}): the model config's scaling_factor "
            f"{scaled['scaling_factor']:g} was not measured on images like these, where 1/std is {measured}"
        )
    return found


def codebook_warnings(codebook: dict[str, Any]) -> list[str]:
    """What is wrong with the use of a codebook, in plain language; `codebook` as in EvaluationReport."""
    size, used, codes = codebook["codebook_size"], codebook["used"], codebook["codes"]
    if used >= _USED_SHARE * min(size, codes):
        return []
    return [
        f"codebook collapse: {used} of {size} codes are used over {codes} positions: give bottleneck.revive_below, "
        "bottleneck.kmeans_start or loss.entropy_weight, or take fewer codes or channels of a code"
    ]


def _collapse(latents: dict[str, Any], units: dict[str, Any]) -> list[str]:
    """Collapse is a lack of signal, not of scale: small latents with a smaller posterior variance carry the image."""
    silent = [ratio < 1 for ratio in latents["channel_signal_to_noise"]]
    nats = latents["kl_nats_per_value"]
    if nats < _COLLAPSED_NATS or (units["share"] < _COLLAPSED_SHARE and all(silent)):
        return [
            f"posterior collapse: {units['count']} of {units['total']} latent units are active and the KL is "
            f"{nats:.3g} nats per latent value, so the latents hardly depend on the image: {_REMEDY}"
        ]
    dead = [
        str(channel)
        for channel, (share, quiet) in enumerate(zip(units["share_per_channel"], silent, strict=True))
        if share == 0 and quiet
    ]
    if not dead:
        return []
    return [
        f"{len(dead)} of {len(silent)} latent channels are dead (channel {', '.join(dead)}: no active unit): "
        f"{_REMEDY}, or train with fewer latent channels"
    ]
