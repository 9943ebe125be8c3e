"""Reports: numbers with their protocol, and warnings of what a person should look at first."""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from latent_ae.evaluation.metrics.likelihood_bounds import ImageTerms
from latent_ae.evaluation.report_warnings import loose_warnings

PRIOR_STD_RANGE = (0.7, 1.4)
"""standard deviations of raw latents for which N(0, 1) is a fair prior"""


class Metric(BaseModel):
    """A number with what is needed to compare it with others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float | None
    """mean over the images unless the protocol says otherwise, or None with a `reason`"""
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
    complete: Literal[True] = True
    """an evaluation that is stopped has no report"""
    protocol: dict[str, str]
    left_out: dict[str, int] = {}
    """number of the files and images of the source that are in no part, by the reason"""
    metrics: dict[str, Metric]
    color_bias: tuple[float | None, ...]
    """mean of reconstruction - image by channel, on [-1, 1]: a tint; None where it is not finite"""
    psnr_by_channel: tuple[float | None, ...] | None = None
    """mean over the images, of more than 3 channels or with alpha; None where it is not finite"""
    latents: dict[str, Any] | None
    """`LatentStatistics.to_dict()` of the raw latents and, under `scaled`, their means and standard deviations after
    the model config's scaling_factor and shift_factor, None where it has none; None without finite latents"""
    codebook: dict[str, Any] | None
    """`CodebookStatistics.to_dict()`; None where there is no codebook"""
    equivariance: dict[str, Any] | None
    """`EquivarianceStatistics.to_dict()`; None unless asked for"""

    def by_channel(self) -> dict[str, str]:
        """The measures that have a value a channel, as text."""
        rows = {"PSNR by channel": (self.psnr_by_channel, ".4g"), "colour bias": (self.color_bias, "+.4f")}
        return {
            name: ", ".join("-" if value is None else format(value, form) for value in values)
            for name, (values, form) in rows.items()
            if values is not None
        }

    def summary(self) -> str:
        """A table for the terminal."""
        lines = [f"{self.protocol['data']}: {self.images} image{'' if self.images == 1 else 's'}"]
        for name, metric in self.metrics.items():
            value = f"- ({metric.reason})" if metric.value is None else f"{metric.value:.5g} {metric.unit}".rstrip()
            lines.append(f"  {name:<22} {value}")
        lines += [f"  {name:<22} {values}" for name, values in self.by_channel().items()]
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
                lines += [] if of is None else [f"  {name:<22} {of['mean']:.4g}, {of['std']:.4g}"]
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
        found = [report.metrics.get(name) for report in reports.values()]  # latents that are not finite have no units
        values = [None if each is None else each.value for each in found]
        if any(value is not None for value in values):
            label = f"{name} ({metric.unit})" if metric.unit else name
            lines.append(row(label, ("-" if value is None else f"{value:.5g}" for value in values)))
    for key in first.protocol:
        rules = {name: report.protocol[key] for name, report in reports.items()}
        if len(set(rules.values())) > 1:
            lines.append(f"  {key} differs: " + "; ".join(f"{name}: {rule}" for name, rule in rules.items()))
    by_warning: dict[str, list[str]] = {}
    for name, report in reports.items():
        for warning in report.warnings:
            by_warning.setdefault(warning, []).append(name)
    lines += [f"warning: {', '.join(names)}: {warning}" for warning, names in by_warning.items()]
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
        warnings=tuple(loose_warnings(share, max(terms[0].bounds))),
    )


def mean(values: Collection[float]) -> float:
    """The mean, rounded once, so that the order of the values does not show."""
    return math.fsum(values) / len(values)


def finite_mean(values: Collection[float]) -> float | None:
    """None for a mean that is not finite."""
    found = mean(values)
    return found if math.isfinite(found) else None


def metric_of(
    values: Mapping[str, float],
    combine: Callable[[Collection[float]], float],
    *,
    unit: str,
    protocol: str,
    absent: str,
) -> Metric:
    """A measure of images by id as one number; without images or with a value that is not finite, the reason."""
    bad = sorted(sample_id for sample_id, value in values.items() if not math.isfinite(value))
    reason = None if values else absent
    if bad:
        reason = f"{len(bad)} of {len(values)} images gave values that are not finite, the first of them {bad[0]!a}"
    value = None if reason else combine(values.values())
    return Metric(value=value, unit=unit, protocol=protocol, images=0 if reason else len(values), reason=reason)


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
