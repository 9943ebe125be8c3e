"""Reports: numbers with their protocol, and warnings of what a person should look at first."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from latent_ae.evaluation.metrics.likelihood_bounds import ImageTerms

PRIOR_STD_RANGE = (0.7, 1.4)
"""standard deviations of raw latents for which N(0, 1) is a fair prior"""
SCALED_STD_RANGE = (0.8, 1.25)
_COLLAPSED_SHARE = 0.1
_COLLAPSED_NATS = 0.01
_USED_SHARE = 0.5
_LOOSE_SHARE = 0.1
_DETAIL_DB = 3.0
"""above flat images: half of the squared error"""
_REMEDY = "lower loss.beta, warm it up (loss.beta_schedule linear) or give loss.free_bits"


class Metric(BaseModel):
    """A number with what is needed to compare it with others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    """mean over the images, or None with a `reason`"""
    unit: str
    protocol: str
    images: int
    """number of images in the mean"""
    reason: str | None = None


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    warnings: tuple[str, ...]

    def with_unusable(self, bad: Sequence[str], asked: int) -> Self:
        """The report with a warning of `bad`, the ids of those of the `asked` images that could not be used."""
        if not bad:
            return self
        warning = f"{len(bad)} of {asked} images are unusable and not in these numbers, the first of them {bad[0]!a}"
        return self.model_copy(update={"warnings": (*self.warnings, warning)})

    def to_json(self) -> str:
        """Indented JSON without NaN or infinity."""
        return json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


class EvaluationReport(_Report):
    """Measures of one model on a part of a data set."""

    images: int
    complete: bool
    """False if the evaluation was stopped before the last image"""
    protocol: dict[str, str]
    metrics: dict[str, Metric]
    color_bias: tuple[float | None, ...]
    """mean of reconstruction - image by channel, on [-1, 1]: a tint; None where it is not finite"""
    latents: dict[str, Any] | None
    """`LatentStatistics.to_dict()` of the raw latents and, under `scaled`, their means and standard deviations after
    the model config's scaling_factor and shift_factor; None without finite latents"""
    codebook: dict[str, Any] | None
    """`CodebookStatistics.to_dict()`; None where there is no codebook"""
    equivariance: dict[str, Any] | None
    """`EquivarianceStatistics.to_dict()`; None unless asked for"""

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


def comparison(reports: Mapping[str, EvaluationReport]) -> str:
    """A table for the terminal of models that were measured on the same images, by their names."""
    first = next(iter(reports.values()))
    width = max(12, *map(len, reports)) + 2

    def row(name: str, cells: Iterable[str]) -> str:
        return f"  {name:<36}" + "".join(f"{cell:>{width}}" for cell in cells)

    lines = [first.protocol["data"], row("", reports)]
    lines.append(row("images", (str(report.images) for report in reports.values())))
    for name, metric in first.metrics.items():
        values = [report.metrics[name].value for report in reports.values()]
        if any(value is not None for value in values):
            label = f"{name} ({metric.unit})" if metric.unit else name
            lines.append(row(label, ("-" if value is None else f"{value:.5g}" for value in values)))
    for key in first.protocol:
        found = {name: report.protocol[key] for name, report in reports.items()}
        if len(set(found.values())) > 1:
            lines.append(f"  {key} differs: " + "; ".join(f"{name}: {value}" for name, value in found.items()))
    lines += [f"warning: {name}: {warning}" for name, report in reports.items() for warning in report.warnings]
    return "\n".join(lines)


class Estimate(BaseModel):
    """A mean over images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    nats: float
    """per image"""
    bits_per_dimension: float
    """what it costs to store: of a bound of log p(x), its negative"""
    images: int


class LikelihoodReport(_Report):
    """Bounds of the log-likelihood of 8-bit images under a KL autoencoder."""

    images: int
    std: float
    """of p(x|z), in units of [-1, 1] pixels"""
    reconstruction: Estimate
    """E_q[log p(x|z)]"""
    kl: Estimate
    """KL(q(z|x) || p(z)): the reconstruction less the ELBO"""
    elbo: Estimate
    iwae: dict[int, Estimate]
    """L_K by K, the draws of an image"""
    standard_error_nats: float | None
    """of the last L_K, over images; None for a single image"""
    effective_share: float
    """mean over images of (sum w)^2 / (K sum w^2) of all K draws"""
    protocol: dict[str, str]

    def summary(self) -> str:
        """A table for the terminal."""
        rows = {"reconstruction": self.reconstruction, "KL": self.kl, "ELBO": self.elbo}
        rows |= {f"IWAE, K = {draws}": estimate for draws, estimate in self.iwae.items()}
        lines = [
            f"{self.protocol['data']}: {self.images} images",
            f"  {'std of p(x|z)':<22} {self.protocol['std']}",
            f"  {'':<22} {'nats an image':>14} {'bits a dimension':>18}",
            *(f"  {name:<22} {row.nats:>14.2f} {row.bits_per_dimension:>18.4f}" for name, row in rows.items()),
        ]
        if self.standard_error_nats is not None:
            lines.append(f"  {'  its standard error':<22} {self.standard_error_nats:>14.2f}")
        lines.append(f"  {'effective draws':<22} {self.effective_share:>14.1%}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def likelihood_report(terms: Sequence[ImageTerms], *, std: float, protocol: dict[str, str]) -> LikelihoodReport:
    """The means over one image or more, all with the same numbers of samples."""

    def mean(values: list[float]) -> float:
        return math.fsum(values) / len(values)  # rounds once, so that the order of the images does not show

    def estimate(nats: list[float], sign: int = -1) -> Estimate:
        bits = [sign * value / (one.dimensions * math.log(2)) for value, one in zip(nats, terms, strict=True)]
        return Estimate(nats=mean(nats), bits_per_dimension=mean(bits), images=len(nats))

    last = [one.bounds[max(one.bounds)] for one in terms]
    center = mean(last)
    spread = math.fsum((value - center) ** 2 for value in last)
    share = mean([one.effective_share for one in terms])
    return LikelihoodReport(
        images=len(terms),
        std=std,
        reconstruction=estimate([one.reconstruction for one in terms]),
        kl=estimate([one.kl for one in terms], sign=1),
        elbo=estimate([one.reconstruction - one.kl for one in terms]),
        iwae={draws: estimate([one.bounds[draws] for one in terms]) for draws in terms[0].bounds},
        standard_error_nats=math.sqrt(spread / (len(last) - 1) / len(last)) if len(last) > 1 else None,
        effective_share=share,
        protocol=protocol,
        warnings=tuple(_loose(share, max(terms[0].bounds))),
    )


def _loose(share: float, draws: int) -> list[str]:
    # One sample with all the weight is a share of 1/K, which is not small for few samples.
    if draws == 1 or share >= _LOOSE_SHARE + (1 - _LOOSE_SHARE) / draws:
        return []
    return [
        f"the bound is loose: of {draws} draws an image about {share * draws:.3g} carry all weight ({share:.1%}): give "
        "more --importance-samples; where that does not help, the encoder's posterior is far from the model's own"
    ]


def shown_bias(color_bias: tuple[float | None, ...]) -> str:
    """A colour bias by channel as text."""
    return ", ".join("-" if bias is None else f"{bias:+.4f}" for bias in color_bias)


def mean_metric(values: dict[str, float], *, unit: str, protocol: str, absent: str) -> Metric:
    """The mean of a measure over images by id; without images or with a value that is not finite, the reason."""
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
    """Warnings of the latents of a report; `latents` as in EvaluationReport."""
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
        measured = f"{1 / latents['sample']['std']:.5g}" if latents["sample"]["std"] else "infinite"
        found.append(
            f"scaled latents have a standard deviation of {scaled['std']:.4g}, diffusion expects about 1 "
            f"({SCALED_STD_RANGE[0]:g} to {SCALED_STD_RANGE[1]:g}): the model config's scaling_factor "
            f"{scaled['scaling_factor']:g} was not measured on images like these, where 1/std is {measured}"
        )
    return found


def flat_warnings(psnr: float | None, flat_psnr: float | None) -> list[str]:
    """Warns of a model that keeps hardly any detail; means in dB, as in the report."""
    if psnr is None or flat_psnr is None or psnr >= flat_psnr + _DETAIL_DB:
        return []
    return [
        f"the model keeps hardly any detail: its PSNR is {psnr:.4g} dB, and flat images of the images' own mean colour "
        f"would have {flat_psnr:.4g} dB: look at the images (are they nearly constant or much too dark?), or train on"
    ]


def codebook_warnings(codebook: dict[str, Any]) -> list[str]:
    """Warnings of the use of a codebook; `codebook` as in EvaluationReport."""
    size, used, codes = codebook["codebook_size"], codebook["used"], codebook["codes"]
    if used >= _USED_SHARE * min(size, codes):
        return []
    return [
        f"codebook collapse: {used} of {size} codes are used over {codes} positions: give bottleneck.revive_below, "
        "bottleneck.kmeans_start or loss.entropy_weight, or take fewer codes or channels of a code"
    ]


def _collapse(latents: dict[str, Any], units: dict[str, Any]) -> list[str]:
    """Collapse is a lack of signal, not of scale: small latents with a smaller posterior variance hold the image."""
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
