"""A model and images to a report: the error of reconstructions, and statistics of latents and codes.

    pixels -> encode -> posterior or codes -> latents -> decode -> reconstruction
                            |                                  |
        KL, latent and codebook statistics     PSNR, SSIM, MS-SSIM, L1, perceptual, sharpness, colour, rFID

B C H W: images, channels, pixels.
"""

import importlib.metadata
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.evaluation.metrics.equivariance import EquivarianceStatistics
from latent_ae.evaluation.metrics.fid import FrechetStatistics, InceptionFeatures
from latent_ae.evaluation.metrics.latents import LatentStatistics
from latent_ae.evaluation.metrics.quality import (
    COLOR_BIAS,
    FLAT_PSNR,
    MS_SSIM_MINIMUM_SIDE,
    PSNR_LIMIT,
    SSIM_MINIMUM_SIDE,
    UNITS_AND_PROTOCOLS,
    compare,
)
from latent_ae.evaluation.perceptual import PerceptualDistance
from latent_ae.evaluation.report import (
    EvaluationReport,
    Metric,
    codebook_warnings,
    flat_warnings,
    latent_warnings,
    mean_metric,
    scaled_latents,
)
from latent_ae.models import Autoencoder, factor_of, pad_to_factor
from latent_ae.models.encode_decode import Encoded, decode_latents, encode_pixels, inference
from latent_ae.models.posterior import kl_nats, sample_posterior
from latent_ae.randomness import place_of, torch_generator

Mode = Literal["mode", "sample"]
Batches = Iterable[tuple[Tensor, Sequence[str]]]
"""pixels [B, C, H, W] float32 in [-1, 1], and the ids of their images"""


class Evaluator:
    """Measures batch by batch; what several processes measured merges to what one would have measured.

    Values are kept by image, so that neither the number of processes nor the order of the batches shows in a mean.
    """

    def __init__(
        self,
        model: Autoencoder,
        *,
        data: str,
        size_rule: str,
        perceptual: PerceptualDistance | str = "not asked for",
        inception: InceptionFeatures | str = "not asked for",
        equivariance: bool = False,
        mode: Mode = "mode",
        seed: int = 0,
    ) -> None:
        """`data` (source and part) and `size_rule` describe what is measured, for the protocol.

        `perceptual` and `inception` (for rFID) are networks on the model's device, or the reason why there is none.
        `equivariance` encodes every image six more times. `mode` is what is decoded: the posterior's mode, or a sample
        whose noise is a function of `seed` and the image's id.
        """
        if mode not in ("mode", "sample"):
            raise ValueError(f"mode must be mode or sample, got {mode!r}")
        self._model, self._mode, self._seed = model, mode, seed
        self._perceptual = None if isinstance(perceptual, str) else perceptual
        self._inception = None if isinstance(inception, str) else inception
        too_small = "no image has sides of at least {} pixels".format
        self._reasons = {
            "ssim": too_small(SSIM_MINIMUM_SIDE),
            "ms_ssim": too_small(MS_SSIM_MINIMUM_SIDE),
            "perceptual": perceptual if isinstance(perceptual, str) else too_small(perceptual.minimum_side),
            "gradient_energy_ratio": "every image is flat",
            **dict.fromkeys(("kl_nats", "kl_bits_per_pixel"), "the latents have no posterior"),
            "rfid": inception if isinstance(inception, str) else "",
        }
        self.protocol = {
            "data": data,
            "size_rule": size_rule,
            "latents": "posterior mode" if mode == "mode" else f"posterior sample, seed {seed}",
            "pixels": "[-1, 1], reconstructions clamped to it and not rounded to 8 bits",
            "padding": f"bottom and right to multiples of {factor_of(model)} by repeating the edge, cropped back",
            "perceptual": "none" if isinstance(perceptual, str) else perceptual.protocol,
            "precision": str(model.dtype).removeprefix("torch."),
            "versions": ", ".join(
                f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "torchmetrics")
            ),
        }
        self._values: dict[str, dict[str, float]] = {}
        codes = model.config.get("num_vq_embeddings")
        self._statistics: dict[str, Any] = {
            "latents": LatentStatistics(),
            "codebook": None if codes is None else CodebookStatistics(codes),
            "equivariance": EquivarianceStatistics(factor_of(model)) if equivariance else None,
            "rfid": None if isinstance(inception, str) else FrechetStatistics(),
        }

    @property
    def per_image(self) -> dict[str, dict[str, float]]:
        """Values by metric of every image, in the order of the ids; without metrics that its size does not allow."""
        return dict(sorted(self._values.items()))

    def update(self, pixels: Tensor, sample_ids: Sequence[str]) -> None:
        """Measure [B, C, H, W] float32 pixels in [-1, 1]. Raises ValueError for others or an image seen before."""
        _check(self._model, pixels)
        if len(sample_ids) != len(pixels):
            raise ValueError(f"every image needs an id, got {len(pixels)} images and {len(sample_ids)} ids")
        self._refuse_repeated(sample_ids)
        height, width = pixels.shape[2:]
        with inference(self._model):
            encoded = encode_pixels(self._model, pixels)
            latents = encoded.latents if self._mode == "mode" else self._sampled(encoded, sample_ids)
            decoded = decode_latents(self._model, latents)[..., :height, :width].float().clamp(-1, 1)
            target = pixels.to(decoded.device)
            columns = compare(decoded, target, perceptual=self._perceptual)
            if encoded.logvar is not None:
                nats = kl_nats(encoded.latents.cpu().double(), encoded.logvar.cpu().double()).sum((1, 2, 3))
                columns |= {
                    "kl_nats": nats.tolist(),
                    "kl_bits_per_pixel": (nats / (math.log(2) * height * width)).tolist(),
                }
            self._gather(encoded, pixels, decoded, target)
        for row, sample_id in enumerate(sample_ids):
            values = {name: column[row] for name, column in columns.items()}
            self._values[sample_id] = {name: value for name, value in values.items() if value is not None}

    def _gather(self, encoded: Encoded, pixels: Tensor, decoded: Tensor, target: Tensor) -> None:
        """Update the statistics that have no value per image."""
        found = self._statistics
        found["latents"].update(encoded.latents, encoded.logvar)
        if encoded.codes is not None:
            found["codebook"].update(encoded.codes, pixels=pixels[0, 0].numel())
        if found["equivariance"] is not None:
            padded = pad_to_factor(pixels, factor_of(self._model))
            found["equivariance"].update(lambda images: encode_pixels(self._model, images).latents, padded)
        if self._inception is not None:
            found["rfid"].update(self._inception(decoded), self._inception(target))

    def state(self) -> dict[str, Any]:
        """The measurements, picklable for `gather_object`."""
        return {"protocol": self.protocol, "values": self._values, "statistics": self._statistics}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Add the states of other processes, without that of this one.

        Raises ValueError if their protocol differs or an image was measured twice.
        """
        for state in states:
            if state["protocol"] != self.protocol:
                raise ValueError(f"shards must follow one protocol, got {state['protocol']} and {self.protocol}")
            self._refuse_repeated(list(state["values"]))
            for name, statistics in self._statistics.items():
                if statistics is not None:
                    statistics.merge(state["statistics"][name])
            self._values |= state["values"]

    def report(self, *, complete: bool = True) -> EvaluationReport:
        """The report of all measurements so far. Raises UserError if there are none."""
        if not self._values:
            raise UserError("nothing was measured: no image of the data set can be used, or none came before the stop")
        found = {name: self._metric(name) for name in UNITS_AND_PROTOCOLS}
        found["rfid"] = self._rfid()
        measured = {name for row in self._values.values() for name in row}
        warnings = [f"no {name}: {found[name].reason}" for name in found if name in measured and found[name].reason]
        warnings += flat_warnings(found["psnr"].value, found[FLAT_PSNR].value)
        latents, codebook = self._latents(), self._statistics["codebook"]
        if latents is not None:
            found["active_units"] = _active_units(latents)
            warnings += latent_warnings(latents)
        equivariance = self._statistics["equivariance"]
        if codebook is not None:
            codebook = codebook.to_dict()
            warnings += codebook_warnings(codebook)
        return EvaluationReport(
            images=len(self._values),
            complete=complete,
            protocol=self.protocol,
            metrics=found,
            color_bias=self._color_bias(),
            latents=latents,
            codebook=codebook,
            equivariance=None if equivariance is None else equivariance.to_dict(),
            warnings=tuple(warnings),
        )

    def _latents(self) -> dict[str, Any] | None:
        statistics, config = self._statistics["latents"], self._model.config
        if not statistics.images:
            return None
        latents: dict[str, Any] = statistics.to_dict()
        latents["protocol"] = "raw latents with those of the padding; standard deviations divide by n"
        latents["scaled"] = scaled_latents(
            latents, scaling_factor=config["scaling_factor"], shift_factor=config.get("shift_factor") or 0.0
        )
        return latents

    def _color_bias(self) -> tuple[float | None, ...]:
        names = [f"{COLOR_BIAS}{channel}" for channel in range(self._model.config["in_channels"])]
        means = [math.fsum(row[name] for row in self._values.values()) / len(self._values) for name in names]
        return tuple(mean if math.isfinite(mean) else None for mean in means)

    def _rfid(self) -> Metric:
        if self._inception is None:
            return Metric(value=None, unit="", protocol="", images=0, reason=self._reasons["rfid"])
        statistics, value, reason = self._statistics["rfid"], None, None
        try:
            value = statistics.fid()
        except ValueError as error:
            reason = str(error)
        images = 0 if reason else statistics.images
        return Metric(value=value, unit="", protocol=self._inception.protocol, images=images, reason=reason)

    def _metric(self, name: str) -> Metric:
        unit, protocol = UNITS_AND_PROTOCOLS[name]
        if name == "perceptual":
            protocol = self.protocol["perceptual"]
        values = {sample_id: row[name] for sample_id, row in self._values.items() if name in row}
        if name in ("psnr", FLAT_PSNR):  # infinite for an identical image, and so would be the mean
            values = {sample_id: min(value, PSNR_LIMIT) for sample_id, value in values.items()}
        return mean_metric(values, unit=unit, protocol=protocol, absent=self._reasons.get(name, "nothing was measured"))

    def _sampled(self, encoded: Encoded, sample_ids: Sequence[str]) -> Tensor:
        mean, logvar = encoded.latents, encoded.logvar
        if logvar is None:
            return mean
        noise = torch.stack([self._noise(sample_id, mean.shape[1:]) for sample_id in sample_ids])
        return sample_posterior(mean, logvar, noise.to(mean))

    def _noise(self, sample_id: str, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=torch_generator(self._seed, "evaluation", place_of(sample_id)))

    def _refuse_repeated(self, sample_ids: Sequence[str]) -> None:
        repeated = sorted({sample_id for sample_id in sample_ids if sample_id in self._values})
        if repeated or len(set(sample_ids)) < len(sample_ids):
            shown = f"{repeated[0]!a} is here already" if repeated else "an id occurs twice in a batch"
            raise UserError(f"every image may be measured once, but {shown}: shard the data set without padding")


def evaluate(
    evaluator: Evaluator,
    batches: Batches,
    *,
    progress: Callable[[int], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> EvaluationReport:
    """Measure every batch in this process.

    `progress` is called with the number of images of each batch. `stop` is called before each batch; once it returns
    True, the report so far is returned with `complete` False. Raises UserError if there is no image.
    """
    for pixels, sample_ids in batches:
        if stop is not None and stop():
            return evaluator.report(complete=False)
        evaluator.update(pixels, sample_ids)
        if progress is not None:
            progress(len(pixels))
    return evaluator.report()


def measure_latents(
    model: Autoencoder, batches: Batches, *, progress: Callable[[int], object] | None = None
) -> LatentStatistics:
    """Statistics of the latents of every batch; their `.scaling()` belongs into the model's config."""
    statistics = LatentStatistics()
    for pixels, _ in batches:
        _check(model, pixels)
        with inference(model):
            encoded = encode_pixels(model, pixels)
        statistics.update(encoded.latents, encoded.logvar)
        if progress is not None:
            progress(len(pixels))
    return statistics


def _check(model: Autoencoder, pixels: Tensor) -> None:
    channels = model.config["in_channels"]
    if pixels.ndim != 4 or pixels.shape[1] != channels or pixels.dtype != torch.float32 or not len(pixels):
        raise ValueError(f"pixels must be [B, {channels}, H, W] float32, got {tuple(pixels.shape)} {pixels.dtype}")
    if not bool(pixels.abs().max() <= 1 + 1e-5):
        raise ValueError(f"pixels must be in [-1, 1], got {float(pixels.min()):g} to {float(pixels.max()):g}")


def _active_units(latents: dict[str, Any]) -> Metric:
    units = latents["active_units"]
    if units is None:
        return Metric(value=None, unit="share", protocol="", images=0, reason="needs two images or more")
    return Metric(value=units["share"], unit="share", protocol=units["protocol"], images=latents["images"])
