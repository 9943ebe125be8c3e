"""What was measured of images, by image and of all together; merges over any split of them, and becomes a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.baseline import MeanImageStatistics
from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.evaluation.metrics.equivariance import EquivarianceStatistics
from latent_ae.evaluation.metrics.fid import FrechetStatistics
from latent_ae.evaluation.metrics.latents import LatentStatistics, Scaling
from latent_ae.evaluation.metrics.quality import (
    CHANNEL_PSNR,
    COLOR_BIAS,
    FLAT_PSNR,
    IN_UNITS,
    LEVELS_USED,
    MAX_ERROR,
    MEAN_IMAGE_PSNR,
    PSNR_LIMIT,
    UNITS_AND_PROTOCOLS,
    psnr_of,
    shows_channels,
)
from latent_ae.evaluation.report import (
    EvaluationReport,
    Metric,
    finite_mean,
    mean,
    metric_of,
    scaled_latents,
)
from latent_ae.evaluation.report_warnings import baseline_warnings, codebook_warnings, latent_warnings, level_warnings
from latent_ae.io.pixel_format import PixelFormat


@dataclass
class Measurements:
    """Values are kept by image, so that neither the number of processes nor the order of batches shows in a mean."""

    protocol: dict[str, str]
    reasons: dict[str, str]
    """why a metric may be missing"""
    pixels: PixelFormat
    scaling: Scaling | None
    """what the model's config states; None where it has no such numbers"""
    codebook: CodebookStatistics | None
    equivariance: EquivarianceStatistics | None
    features: FrechetStatistics | None
    """for rFID"""
    latents: LatentStatistics = field(default_factory=LatentStatistics)
    mean_image: MeanImageStatistics = field(default_factory=MeanImageStatistics)
    rows: dict[str, dict[str, float]] = field(default_factory=dict)
    """values by metric, by the id of the image; without metrics that its size does not allow"""

    def add(self, columns: Mapping[str, Sequence[float | None]], sample_ids: Sequence[str]) -> None:
        """Add the values of a batch by metric; None for an image without one."""
        for place, sample_id in enumerate(sample_ids):
            values = {name: column[place] for name, column in columns.items()}
            self.rows[sample_id] = {name: value for name, value in values.items() if value is not None}

    def merge(self, other: "Measurements") -> None:
        """Add those of another process. Raises ValueError for another protocol, UserError for a repeated image."""
        if other.protocol != self.protocol:
            raise ValueError(f"shards must follow one protocol, got {other.protocol} and {self.protocol}")
        self.refuse_repeated(list(other.rows))
        for name in ("codebook", "equivariance", "features", "latents", "mean_image"):
            if (own := getattr(self, name)) is not None:
                own.merge(getattr(other, name))
        self.rows |= other.rows

    def refuse_repeated(self, sample_ids: Sequence[str]) -> None:
        """Raises UserError for an id that was measured before, or that occurs twice."""
        repeated = sorted({sample_id for sample_id in sample_ids if sample_id in self.rows})
        if repeated or len(set(sample_ids)) < len(sample_ids):
            shown = f"{repeated[0]!a} is here already" if repeated else "an id occurs twice in a batch"
            raise UserError(f"every image may be measured once, but {shown}: shard the data set without padding")

    def report(self) -> EvaluationReport:
        """The report of all images so far. Raises UserError if there are none."""
        if not self.rows:
            raise UserError("nothing was measured: no image of the data set can be used")
        found = {
            name: self._metric(name) for name in UNITS_AND_PROTOCOLS if self.pixels.numbers or name not in IN_UNITS
        }
        found |= {MEAN_IMAGE_PSNR: self._mean_image_psnr(), "rfid": self._rfid()}
        measured = {name for row in self.rows.values() for name in row}
        warnings = [f"no {name}: {found[name].reason}" for name in found if name in measured and found[name].reason]
        pooled = psnr_of(mean([4 / 10 ** (row["psnr"] / 10) for row in self.rows.values()]))
        psnr, flat, mean_image = (found[name].value for name in ("psnr", FLAT_PSNR, MEAN_IMAGE_PSNR))
        warnings += baseline_warnings(psnr, flat, mean_image, pooled)
        warnings += level_warnings([int(row[LEVELS_USED]) for row in self.rows.values()], self.pixels)
        latents = self._latents()
        if latents is not None:
            found["active_units"] = _active_units(latents)
            warnings += latent_warnings(latents)
        codebook = None if self.codebook is None else self.codebook.to_dict()
        if codebook is not None:
            warnings += codebook_warnings(codebook)
        return EvaluationReport(
            images=len(self.rows),
            protocol=self.protocol,
            metrics=found,
            color_bias=self._by_channel(COLOR_BIAS),
            psnr_by_channel=self._by_channel(CHANNEL_PSNR) if shows_channels(self.pixels) else None,
            latents=latents,
            codebook=codebook,
            equivariance=None if self.equivariance is None else self.equivariance.to_dict(),
            warnings=tuple(warnings),
        )

    def _metric(self, name: str) -> Metric:
        unit, protocol = UNITS_AND_PROTOCOLS[name]
        protocol = self.protocol.get(name, protocol)
        if name in IN_UNITS:
            unit, protocol = self.pixels.unit, f"{protocol}, of values {self.pixels.describe()}"
        values = {sample_id: row[name] for sample_id, row in self.rows.items() if name in row}
        if name in ("psnr", FLAT_PSNR):  # infinite for an identical image, and so would be the mean
            values = {sample_id: min(value, PSNR_LIMIT) for sample_id, value in values.items()}
        absent = self.reasons.get(name, "nothing was measured")
        return metric_of(values, max if name == MAX_ERROR else mean, unit=unit, protocol=protocol, absent=absent)

    def _mean_image_psnr(self) -> Metric:
        unit, protocol = UNITS_AND_PROTOCOLS[MEAN_IMAGE_PSNR]
        if (mse := self.mean_image.mse()) is None:
            return Metric(value=None, unit=unit, protocol=protocol, images=0, reason="there is only one image")
        protocol = f"{protocol} of the mean {self.mean_image.mean_is} of the other images in place of a reconstruction"
        return Metric(value=psnr_of(mse), unit=unit, protocol=protocol, images=len(self.rows))

    def _rfid(self) -> Metric:
        protocol, reason = self.protocol.get("rfid", ""), self.reasons["rfid"]
        if self.features is not None:
            try:
                return Metric(value=self.features.fid(), unit="", protocol=protocol, images=self.features.images)
            except ValueError as error:
                reason = str(error)
        return Metric(value=None, unit="", protocol=protocol, images=0, reason=reason)

    def _by_channel(self, prefix: str) -> tuple[float | None, ...]:
        names = [f"{prefix}{channel}" for channel in range(self.pixels.channels)]
        return tuple(finite_mean([min(row[name], PSNR_LIMIT) for row in self.rows.values()]) for name in names)

    def _latents(self) -> dict[str, Any] | None:
        if not self.latents.images:
            return None
        latents: dict[str, Any] = self.latents.to_dict()
        latents["protocol"] = "raw latents with those of the padding; standard deviations divide by n"
        latents["scaled"] = None if self.scaling is None else scaled_latents(latents, **self.scaling._asdict())
        return latents


def _active_units(latents: dict[str, Any]) -> Metric:
    units = latents["active_units"]
    if units is None:
        return Metric(value=None, unit="share", protocol="", images=0, reason="needs two images or more")
    return Metric(value=units["share"], unit="share", protocol=units["protocol"], images=latents["images"])
