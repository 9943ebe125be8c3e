"""A model and a data set in, a report out: how well images survive, and what their latents look like.

    pixels -> encode -> posterior -> latents -> decode -> reconstruction
                            |                                  |
                 KL, latent statistics         PSNR, SSIM, MS-SSIM, L1, perceptual

B C H W: images, channels, pixels.
"""

import importlib.metadata
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae import metrics
from latent_ae.metrics import LatentStatistics
from latent_ae.models import factor_of, pad_to_factor
from latent_ae.perceptual import PerceptualDistance
from latent_ae.randomness import torch_generator
from latent_ae.report import EvaluationReport, Metric, latent_warnings, scaled_latents

__all__ = ["EvaluationReport", "Evaluator", "Metric", "evaluate", "factor_of", "measure_latents"]

Mode = Literal["mode", "sample"]
Batches = Iterable[tuple[Tensor, Sequence[str]]]
"""pixels [B, C, H, W] float32 in [-1, 1], and the ids of their images"""

PSNR_LIMIT = 100.0
_UNITS_AND_PROTOCOLS = {
    "psnr": ("dB", f"data range 2 on [-1, 1], over all pixels and channels; at most {PSNR_LIMIT:g} an image"),
    "ssim": ("", "torchmetrics on [0, 1], data range 1, 11x11 Gaussian window of sigma 1.5"),
    "ms_ssim": ("", "torchmetrics on [0, 1], data range 1, 5 scales, 11x11 Gaussian window of sigma 1.5"),
    "l1": ("", "mean absolute difference on [-1, 1]"),
    "perceptual": ("", ""),
    "kl_nats": ("nats/image", "KL of the posterior to N(0, 1), summed over an image's latents"),
    "kl_bits_per_pixel": ("bits/pixel", "kl_nats / (ln 2 * H * W), H and W before padding"),
}


class Evaluator:
    """Measures batch by batch; what several processes measured merges to what one would have measured.

    Values are kept by image, so that neither the number of processes nor the order of the batches shows in a mean.
    """

    def __init__(
        self,
        model: AutoencoderKL,
        *,
        data: str,
        size_rule: str,
        perceptual: PerceptualDistance | None = None,
        perceptual_reason: str | None = None,
        mode: Mode = "mode",
        seed: int = 0,
    ) -> None:
        """`data` (source and part) and `size_rule` say in words what is measured, for the protocol.

        `perceptual` is on the model's device; without one, `perceptual_reason` says why. `mode` is what the decoder is
        given: the posterior's mode, or a sample whose noise follows from `seed` and the image's id.
        """
        if mode not in ("mode", "sample"):
            raise ValueError(f"mode must be mode or sample, got {mode!r}")
        if perceptual is not None and perceptual_reason is not None:
            raise ValueError(f"a perceptual distance is given, and a reason why there is none: {perceptual_reason}")
        self._model, self._perceptual, self._mode, self._seed = model, perceptual, mode, seed
        too_small = "no image has sides of at least {} pixels".format
        self._reasons = {
            "ssim": too_small(metrics.SSIM_MINIMUM_SIDE),
            "ms_ssim": too_small(metrics.MS_SSIM_MINIMUM_SIDE),
            "perceptual": perceptual_reason or "not asked for"
            if perceptual is None
            else too_small(perceptual.minimum_side),
        }
        self.protocol = {
            "data": data,
            "size_rule": size_rule,
            "latents": "posterior mode" if mode == "mode" else f"posterior sample, seed {seed}",
            "pixels": "[-1, 1], reconstructions clamped to it and not rounded to 8 bits",
            "padding": f"bottom and right to multiples of {factor_of(model)} by repeating the edge, cropped back",
            "perceptual": "none" if perceptual is None else perceptual.protocol,
            "precision": str(model.dtype).removeprefix("torch."),
            "versions": ", ".join(
                f"{name} {importlib.metadata.version(name)}" for name in ("torch", "diffusers", "torchmetrics")
            ),
        }
        self._values: dict[str, dict[str, float]] = {}
        self._latents = LatentStatistics()

    @property
    def per_image(self) -> dict[str, dict[str, float]]:
        """Every image's values by metric, in the order of the ids; a metric its size does not allow is absent."""
        return dict(sorted(self._values.items()))

    def update(self, pixels: Tensor, sample_ids: Sequence[str]) -> None:
        """Measure [B, C, H, W] float32 pixels in [-1, 1]. Raises ValueError for others or an image seen before."""
        _check(self._model, pixels)
        if len(sample_ids) != len(pixels):
            raise ValueError(f"every image needs an id, got {len(pixels)} images and {len(sample_ids)} ids")
        self._refuse_repeated(sample_ids)
        height, width = pixels.shape[2:]
        with _inference(self._model):
            mean, logvar = _posterior(self._model, pixels)
            latents = mean if self._mode == "mode" else self._sampled(mean, logvar, sample_ids)
            decoded = self._model.decode(latents).sample[..., :height, :width]
            columns = self._compare(decoded.float().clamp(-1, 1), pixels.to(decoded.device))
            nats = metrics.kl_nats(mean.cpu().double(), logvar.cpu().double()).sum((1, 2, 3))
        self._latents.update(mean, logvar)
        columns |= {"kl_nats": nats, "kl_bits_per_pixel": nats / (math.log(2) * height * width)}
        lists = {name: values.tolist() for name, values in columns.items()}
        for row, sample_id in enumerate(sample_ids):
            self._values[sample_id] = {name: values[row] for name, values in lists.items()}

    def state(self) -> dict[str, Any]:
        """What has been measured, picklable: for `gather_object`."""
        return {"protocol": self.protocol, "values": self._values, "latents": self._latents}

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Add the states of other processes (not this one's own).

        Raises ValueError if they followed another protocol, or measured an image that has been measured here.
        """
        for state in states:
            if state["protocol"] != self.protocol:
                raise ValueError(f"shards must follow one protocol, got {state['protocol']} and {self.protocol}")
            self._refuse_repeated(list(state["values"]))
            self._latents.merge(state["latents"])
            self._values |= state["values"]

    def report(self, *, complete: bool = True) -> EvaluationReport:
        """Everything measured so far. Raises ValueError if that is nothing."""
        if not self._values:
            raise ValueError("nothing was measured: the data set gave no image")
        found = {name: self._metric(name) for name in _UNITS_AND_PROTOCOLS}
        latents = self._latents.to_dict() if self._latents.images else None
        measured = {name for row in self._values.values() for name in row}
        warnings = [f"no {name}: {found[name].reason}" for name in found if name in measured and found[name].reason]
        if latents is not None:
            config = self._model.config
            latents["protocol"] = "raw latents with those of the padding; standard deviations divide by n"
            latents["scaled"] = scaled_latents(
                latents, scaling_factor=config["scaling_factor"], shift_factor=config.get("shift_factor") or 0.0
            )
            found["active_units"] = _active_units(latents)
            warnings += latent_warnings(latents)
        return EvaluationReport(
            images=len(self._values),
            complete=complete,
            protocol=self.protocol,
            metrics=found,
            latents=latents,
            warnings=tuple(warnings),
        )

    def _metric(self, name: str) -> Metric:
        unit, protocol = _UNITS_AND_PROTOCOLS[name]
        if name == "perceptual":
            protocol = self.protocol["perceptual"]
        values = {sample_id: row[name] for sample_id, row in self._values.items() if name in row}
        if name == "psnr":  # infinite for an identical image, which would hide all others
            values = {sample_id: min(value, PSNR_LIMIT) for sample_id, value in values.items()}
        bad = sorted(sample_id for sample_id, value in values.items() if not math.isfinite(value))
        reason = None if values else self._reasons[name]
        if bad:
            reason = f"{len(bad)} of {len(values)} images gave values that are not finite, the first of them {bad[0]!a}"
        # fsum rounds once, so that the order of the values does not show
        mean = None if reason else math.fsum(values.values()) / len(values)
        return Metric(value=mean, unit=unit, protocol=protocol, images=0 if reason else len(values), reason=reason)

    def _compare(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        columns = {
            "psnr": metrics.psnr(reconstruction, target),
            "ssim": metrics.ssim(reconstruction, target),
            "ms_ssim": metrics.ms_ssim(reconstruction, target),
            "l1": metrics.l1(reconstruction, target),
        }
        if self._perceptual is not None and min(target.shape[2:]) >= self._perceptual.minimum_side:
            columns["perceptual"] = self._perceptual(reconstruction, target)
        return {name: values for name, values in columns.items() if values is not None}

    def _sampled(self, mean: Tensor, logvar: Tensor, sample_ids: Sequence[str]) -> Tensor:
        noise = torch.stack([self._noise(sample_id, mean.shape[1:]) for sample_id in sample_ids])
        return mean + torch.exp(0.5 * logvar.clamp(*metrics.LOGVAR_RANGE)) * noise.to(mean)

    def _noise(self, sample_id: str, shape: torch.Size) -> Tensor:
        place = zlib.crc32(sample_id.encode("utf-8", "surrogateescape"))  # file names need not be valid UTF-8
        return torch.randn(shape, generator=torch_generator(self._seed, "evaluation", place))

    def _refuse_repeated(self, sample_ids: Sequence[str]) -> None:
        repeated = sorted({sample_id for sample_id in sample_ids if sample_id in self._values})
        if repeated or len(set(sample_ids)) < len(sample_ids):
            shown = f"{repeated[0]!a} is here already" if repeated else "an id occurs twice in a batch"
            raise ValueError(f"every image may be measured once, but {shown}: shard the data set without padding")


def evaluate(
    model: AutoencoderKL,
    batches: Batches,
    *,
    data: str,
    size_rule: str,
    perceptual: PerceptualDistance | None = None,
    perceptual_reason: str | None = None,
    mode: Mode = "mode",
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    stop: Callable[[], bool] | None = None,
) -> EvaluationReport:
    """Measure every batch in this process; the arguments are `Evaluator`'s.

    `progress` is called with the number of images of each batch. `stop` is asked before each batch; once it returns
    True the report says so (`complete`). Raises ValueError if there is no image at all.
    """
    evaluator = Evaluator(
        model,
        data=data,
        size_rule=size_rule,
        perceptual=perceptual,
        perceptual_reason=perceptual_reason,
        mode=mode,
        seed=seed,
    )
    for pixels, sample_ids in batches:
        if stop is not None and stop():
            return evaluator.report(complete=False)
        evaluator.update(pixels, sample_ids)
        if progress is not None:
            progress(len(pixels))
    return evaluator.report()


def measure_latents(
    model: AutoencoderKL, batches: Batches, *, progress: Callable[[int], object] | None = None
) -> LatentStatistics:
    """Encode every batch; `.scaling()` of the result is what a model's config should carry."""
    statistics = LatentStatistics()
    for pixels, _ in batches:
        _check(model, pixels)
        with _inference(model):
            mean, logvar = _posterior(model, pixels)
        statistics.update(mean, logvar)
        if progress is not None:
            progress(len(pixels))
    return statistics


@contextmanager
def _inference(model: AutoencoderKL) -> Iterator[None]:
    """Eval mode without gradients; every module gets its own mode back, as parts of a model may be frozen."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _posterior(model: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logvar [B, c, h, w] as the encoder gives them: diffusers' clamp would hide a logvar that is infinite."""
    padded = pad_to_factor(pixels, factor_of(model))
    mean, logvar = model.encode(padded.to(model.device, model.dtype)).latent_dist.parameters.chunk(2, dim=1)
    return mean, logvar


def _check(model: AutoencoderKL, pixels: Tensor) -> None:
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
