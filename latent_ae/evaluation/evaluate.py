"""A model and images to a report: the error of reconstructions, and statistics of latents and codes.

    pixels -> encode -> posterior or codes -> latents -> decode -> reconstruction
                            |                                  |
        KL, latent and codebook statistics     PSNR, SSIM, MS-SSIM, L1, perceptual, sharpness, colour, rFID
                            |________ Measurements ____________| -> EvaluationReport

B C H W: images, channels, pixels.
"""

import importlib.metadata
import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from latent_ae.evaluation.coder import PIXELS_AT_ONCE, Coder
from latent_ae.evaluation.measurements import Measurements
from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.evaluation.metrics.equivariance import EquivarianceStatistics
from latent_ae.evaluation.metrics.fid import FrechetStatistics, InceptionFeatures
from latent_ae.evaluation.metrics.large import compare_large
from latent_ae.evaluation.metrics.latents import LatentStatistics, Scaling
from latent_ae.evaluation.metrics.quality import MS_SSIM_MINIMUM_SIDE, SSIM_MINIMUM_SIDE, compare
from latent_ae.evaluation.perceptual import PerceptualDistance
from latent_ae.evaluation.report import EvaluationReport
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import AnyAutoencoder, factor_of, pad_to_factor
from latent_ae.models.autoencoder import codebook_size
from latent_ae.models.encode_decode import Encoded, inference
from latent_ae.models.posterior import kl_nats, sample_posterior
from latent_ae.randomness import place_of, torch_generator

Mode = Literal["mode", "sample"]
Batches = Iterable[tuple[Tensor, Sequence[str]]]
"""pixels [B, C, H, W] float32 in [-1, 1], and the ids of their images"""


class Networks(NamedTuple):
    """The networks of an evaluation, or the reason why there is none: a metric may be missing, a loss term may not."""

    perceptual: PerceptualDistance | str = "not asked for (evaluation.perceptual none)"
    inception: InceptionFeatures | str = "not asked for (evaluation.fid false)"
    """for rFID"""


NO_NETWORKS = Networks()


class Evaluator:
    """Measures batch by batch; `measurements` of several processes merge to what one would have measured."""

    def __init__(
        self,
        model: AnyAutoencoder,
        networks: Networks = NO_NETWORKS,
        *,
        data: str,
        size_rule: str,
        pixels: PixelFormat | None = None,
        equivariance: bool = False,
        mode: Mode = "mode",
        seed: int = 0,
        pixels_at_once: int = PIXELS_AT_ONCE,
    ) -> None:
        """`data` (source and part) and `size_rule` describe what is measured, for the protocol.

        `pixels` is what the values of the images mean (None: they are pictures). `networks` are moved to the model's
        device. `equivariance` encodes every image six more times. `mode` is what is decoded: the posterior's mode, or a
        sample whose noise is a function of `seed` and the image's id. Images of more than `pixels_at_once` are measured
        in strips and windows, with the same values up to the order of sums.
        """
        if mode not in ("mode", "sample"):
            raise ValueError(f"mode must be mode or sample, got {mode!r}")
        self._model, self._mode, self._seed = model, mode, seed
        self._coder = Coder(model, pixels_at_once)
        self._pixels = pixels or PixelFormat.picture(model.config["in_channels"])
        perceptual, inception = networks
        self._perceptual = None if isinstance(perceptual, str) else perceptual.to(model.device)
        self._inception = None if isinstance(inception, str) else inception.to(model.device)
        codes, scale = codebook_size(model), model.config["scaling_factor"]
        self.measurements = Measurements(
            self._protocol(data, size_rule),
            _reasons(networks),
            self._pixels,
            None if scale is None else Scaling(scale, model.config.get("shift_factor") or 0.0),
            codebook=None if codes is None else CodebookStatistics(codes),
            equivariance=EquivarianceStatistics(factor_of(model)) if equivariance else None,
            features=None if self._inception is None else FrechetStatistics(),
        )

    def _protocol(self, data: str, size_rule: str) -> dict[str, str]:
        return {
            "data": data,
            "size_rule": size_rule,
            "latents": "posterior mode" if self._mode == "mode" else f"posterior sample, seed {self._seed}",
            "pixels": f"{self._pixels.describe()} as [-1, 1], reconstructions clamped to it and not rounded",
            "padding": f"bottom and right to multiples of {factor_of(self._model)} by repeating the edge, cropped back",
            "perceptual": "none" if self._perceptual is None else self._perceptual.protocol,
            **({} if self._inception is None else {"rfid": self._inception.protocol}),
            "precision": str(self._model.dtype).removeprefix("torch."),
            "versions": ", ".join(
                f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "torchmetrics")
            ),
        }

    def update(self, pixels: Tensor, sample_ids: Sequence[str]) -> None:
        """Measure [B, C, H, W] float32 pixels in [-1, 1]. Raises ValueError for others or an image seen before."""
        _check(self._model, pixels)
        if len(sample_ids) != len(pixels):
            raise ValueError(f"every image needs an id, got {len(pixels)} images and {len(sample_ids)} ids")
        self.measurements.refuse_repeated(sample_ids)
        height, width = pixels.shape[2:]
        with inference(self._model):
            encoded = self._coder.encode(pixels)
            latents = encoded.latents if self._mode == "mode" else self._sampled(encoded, sample_ids)
            decoded = self._coder.decode(latents)[..., :height, :width].float().clamp_(-1, 1)
            target = pixels.to(decoded.device)
            measures = compare_large if self._coder.in_strips(height, width) else compare
            columns = measures(decoded, target, pixels=self._pixels, perceptual=self._perceptual)
            if encoded.logvar is not None:
                nats = kl_nats(encoded.latents.cpu().double(), encoded.logvar.cpu().double()).sum((1, 2, 3))
                columns |= {
                    "kl_nats": nats.tolist(),
                    "kl_bits_per_pixel": (nats / (math.log(2) * height * width)).tolist(),
                }
            self._gather(encoded, pixels, decoded, target)
        self.measurements.add(columns, sample_ids)

    def _gather(self, encoded: Encoded, pixels: Tensor, decoded: Tensor, target: Tensor) -> None:
        """Update the statistics that have no value per image."""
        found = self.measurements
        found.mean_image.update(pixels)
        found.latents.update(encoded.latents, encoded.logvar)
        if found.codebook is not None and encoded.codes is not None:
            found.codebook.update(encoded.codes, pixels=pixels[0, 0].numel())
        if found.equivariance is not None:
            padded = pad_to_factor(pixels, factor_of(self._model))
            found.equivariance.update(lambda images: self._coder.encode(images).latents, padded)
        if found.features is not None and self._inception is not None:
            found.features.update(self._inception(decoded), self._inception(target))

    def _sampled(self, encoded: Encoded, sample_ids: Sequence[str]) -> Tensor:
        mean, logvar = encoded.latents, encoded.logvar
        if logvar is None:
            return mean
        noise = torch.stack([self._noise(sample_id, mean.shape[1:]) for sample_id in sample_ids])
        return sample_posterior(mean, logvar, noise.to(mean))

    def _noise(self, sample_id: str, shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=torch_generator(self._seed, "evaluation", place_of(sample_id)))


def evaluate(evaluator: Evaluator, batches: Batches) -> EvaluationReport:
    """Measure every batch in this process. Raises UserError if there is no image."""
    for pixels, sample_ids in batches:
        evaluator.update(pixels, sample_ids)
    return evaluator.measurements.report()


def measure_latents(
    model: AnyAutoencoder, batches: Batches, *, pixels_at_once: int = PIXELS_AT_ONCE
) -> LatentStatistics:
    """Statistics of the latents of every batch; their `.scaling()` belongs into the model's config.

    Images of more than `pixels_at_once` go through in strips.
    """
    statistics, coder = LatentStatistics(), Coder(model, pixels_at_once)
    for pixels, _ in batches:
        _check(model, pixels)
        with inference(model):
            encoded = coder.encode(pixels)
        statistics.update(encoded.latents, encoded.logvar)
    return statistics


def _check(model: AnyAutoencoder, pixels: Tensor) -> None:
    channels = model.config["in_channels"]
    if pixels.ndim != 4 or pixels.shape[1] != channels or pixels.dtype != torch.float32 or not len(pixels):
        raise ValueError(f"pixels must be [B, {channels}, H, W] float32, got {tuple(pixels.shape)} {pixels.dtype}")
    low, high = map(float, pixels.aminmax())
    if not max(-low, high) <= 1 + 1e-5:
        raise ValueError(f"pixels must be in [-1, 1], got {low:g} to {high:g}")


def _reasons(networks: Networks) -> dict[str, str]:
    """Why a metric may be missing."""
    perceptual, inception = networks
    too_small = "no image has sides of at least {} pixels".format
    return {
        "ssim": too_small(SSIM_MINIMUM_SIDE),
        "ms_ssim": too_small(MS_SSIM_MINIMUM_SIDE),
        "perceptual": perceptual if isinstance(perceptual, str) else too_small(perceptual.minimum_side),
        "gradient_energy_ratio": "every image is flat",
        **dict.fromkeys(("kl_nats", "kl_bits_per_pixel"), "the latents have no posterior"),
        "rfid": inception if isinstance(inception, str) else "",
    }
