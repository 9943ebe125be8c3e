"""The proof of an export: the images that it is tested on, the model's outputs, and how the consumer's are compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_ae.config import Section
from latent_ae.data import AnySource, DataConfig, DigitsConfig, EvaluationBatch, PhotosConfig, evaluation_batches
from latent_ae.data.values import read_as
from latent_ae.errors import UserError
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import Autoencoder, factor_of
from latent_ae.models.encode_decode import decode_latents, encode_pixels, inference
from latent_ae.randomness import torch_generator

CLOSE = 1e-4
"""largest difference of a consumer with its own arithmetic, for values of about 1"""
_SIDES = (64, 32, 16)
"""pixels of real images, the first that they are large enough for"""
_REAL = 3
_RANDOM = ((1, 3, 5), (5, 2, 3))
"""batch, and height and width in steps of the model's factor, or of 16 pixels where that is less"""


class ExportError(UserError):
    """A model that cannot be exported as asked; the message is one line."""


class ProofFailed(Exception):  # noqa: N818 - a fact about a file; no option avoids it, so it is no UserError
    """The export does not do in its consumer what the model does; the message is one line."""


class ProbeConfig(Section):
    """Which images an export is proven on."""

    data: AnySource = DigitsConfig()


@dataclass(frozen=True)
class Answer:
    """A model's outputs for images, on the CPU."""

    encoded: Tensor
    """moments [B,2c,h,w] of AutoencoderKL, or vectors [B,c,h,w] before they are quantised, of VQModel"""
    latents: Tensor
    """[B,c,h,w] that are decoded: the mean, or the vectors"""
    codes: Tensor | None
    """[B,h,w] int64 of VQModel"""
    pixels: Tensor
    """[B,C,H,W] that they are decoded to"""


@dataclass(frozen=True)
class Probe:
    """Images of one size, and the outputs of the model that is exported."""

    images: str
    """what they are, for the report"""
    real: bool
    pixels: Tensor
    """[B,C,H,W] float32 in [-1, 1]; the model's factor divides both sides"""
    answer: Answer


def answer(model: Autoencoder, pixels: Tensor, *, latents: Tensor | None = None) -> Answer:
    """Encode and decode by diffusers' own methods, as their results are compared; decodes `latents` if given."""
    with inference(model):
        made = encode_pixels(model, pixels)
        if latents is None:
            # A VQModel's `decode` quantises; to quantise its straight-through sum z + (e - z) again changes bits.
            latents = made.latents.contiguous() if made.codes is None else made.outputs
        return Answer(made.outputs, latents, made.codes, decode_latents(model, latents))


def make_probes(
    model: Autoencoder, pixel_format: PixelFormat, data: DataConfig | None, *, size: tuple[int, int] | None = None
) -> list[Probe]:
    """Held-out images of a source, and noise, in two sizes and three odd batches.

    Args:
        model: the model that is to be exported.
        pixel_format: what its pixels mean.
        data: where images come from; None: of pictures, the photographs or digits that need no download, as its
            channels are; of numbers, only noise is taken.
        size: height and width in pixels that one held-out image is resized to, and one of noise has, instead.

    Raises ExportError if no image is large enough, the model's outputs for one are not finite, or its factor does not
    divide the size; and DataError.
    """
    probes = []
    channels, factor = int(model.config["in_channels"]), factor_of(model)
    if size is not None and any(side < 1 or side % factor for side in size):
        raise ExportError(f"size {size[0]}x{size[1]}: both sides must be multiples of the model's factor {factor}")
    if data is None and not pixel_format.numbers:
        data = DigitsConfig() if channels <= 2 else PhotosConfig()
    if data is not None:
        batch = _real_images(read_as(pixel_format, data, "the model"), pixel_format, factor)
        pixels, shown = batch.pixels, batch.sample_ids
        if size is not None:
            pixels, shown = F.interpolate(pixels[:1], size, mode="bilinear", antialias=True), shown[:1]
        probes.append(_probe(model, f"held-out images of {data.source}: {', '.join(shown)}", pixels, real=True))
    step = -(-16 // factor) * factor
    noisy = [(count, height * step, width * step) for count, height, width in _RANDOM]
    for place, (count, height, width) in enumerate(noisy if size is None else [(1, *size)]):
        noise = torch.rand(count, channels, height, width, generator=torch_generator(0, "probe", place))
        probes.append(_probe(model, "uniform noise", 2 * noise - 1, real=False))
    return probes


def _probe(model: Autoencoder, images: str, pixels: Tensor, *, real: bool) -> Probe:
    given = answer(model, pixels)
    if not (given.encoded.isfinite().all() and given.pixels.isfinite().all()):
        raise ExportError(f"the model produces NaN or infinity on {images}: mend it before exporting")
    return Probe(images, real, pixels, given)


def _real_images(data: DataConfig, pixel_format: PixelFormat, factor: int) -> EvaluationBatch:
    source = data.open().for_training().heldout
    reasons: list[str] = []
    for wanted in _SIDES:
        batches = evaluation_batches(
            source,
            pixel_format,
            size=max(2, -(-wanted // factor)) * factor,
            background=data.background,
            batch_size=_REAL,
            limit=_REAL,
            on_bad=lambda sample_id, reason: reasons.append(f"{sample_id}: {reason}"),
        )
        if (batch := next(iter(batches), None)) is not None:
            return batch
    raise ExportError(f"none of the held-out images of data.source {data.source} can be used: {reasons[-1]}")


@dataclass(frozen=True)
class Comparison:
    """One output of the consumer beside the model's own."""

    what: str
    images: str
    shape: tuple[int, ...]
    """of the images"""
    max_abs_difference: float
    tolerance: float
    differing_codes: int | None = None
    """of codes: how many are others, each as near as the model's own within the tolerance"""

    @property
    def passed(self) -> bool:
        """Written so that NaN fails."""
        return self.max_abs_difference <= self.tolerance

    def __str__(self) -> str:
        size = f" ({'x'.join(map(str, self.shape))})" if self.shape else ""
        return (
            f"{self.what} for {self.images}{size}: the largest difference is "
            f"{self.max_abs_difference:.3g}, tolerance {self.tolerance:.3g}"
        )


@dataclass(frozen=True)
class Proof:
    """What came of loading an export as its consumer does."""

    loader: str
    """the call that loaded it"""
    comparisons: Sequence[Comparison]


def compare(what: str, probe: Probe, got: Tensor, expected: Tensor, *, tolerance: float) -> Comparison:
    """The largest difference; infinite where the shapes differ."""
    same_shape = got.shape == expected.shape
    difference = float((got.double() - expected.double()).abs().max()) if same_shape else math.inf
    return Comparison(what, probe.images, tuple(probe.pixels.shape), difference, tolerance)


def compare_close(what: str, probe: Probe, got: Tensor, expected: Tensor) -> Comparison:
    """Within CLOSE, or within CLOSE of the values' root mean square where that is above 1: float32 has 7 digits."""
    return compare(what, probe, got, expected, tolerance=CLOSE * max(1.0, float(expected.square().mean().sqrt())))


def compare_answers(probe: Probe, got: Answer, expected: Answer, *, name: str = "") -> list[Comparison]:
    """To the last bit; `name` goes before what is compared."""
    pairs = [("encoder's outputs", got.encoded, expected.encoded), ("decoder's pixels", got.pixels, expected.pixels)]
    if expected.codes is not None:
        assert got.codes is not None
        pairs.append(("codes", got.codes, expected.codes))
    return [compare(f"{name}{what}", probe, one, other, tolerance=0.0) for what, one, other in pairs]


def compare_scaling(got: Autoencoder, config: Mapping[str, Any]) -> list[Comparison]:
    """The numbers by which pipelines make latents what diffusion models take."""
    return [
        Comparison(name, "any images", (), abs(float(got.config.get(name) or 0.0) - float(config[name] or 0.0)), 0.0)
        for name in ("scaling_factor", "shift_factor")
        if name in config
    ]


def compare_encoded(probe: Probe, got: Tensor, model: Autoencoder) -> list[Comparison]:
    """An encoder's moments [B,2c,h,w], or codes [B,h,w], within what is close.

    A code may be another than the model's where both are as near to the vector that they stand for.
    """
    expected = probe.answer
    if expected.codes is None:
        halves = zip(got.chunk(2, dim=1), expected.encoded.chunk(2, dim=1), strict=True)
        return [
            compare_close(f"latents' {what}", probe, *pair)
            for what, pair in zip(("mean", "log-variance"), halves, strict=True)
        ]
    embedding = model.quantize.embedding.weight.detach()
    if got.shape != expected.codes.shape or got.min() < 0 or got.max() >= len(embedding):
        return [Comparison("codes", probe.images, tuple(probe.pixels.shape), math.inf, CLOSE)]
    vectors = expected.encoded.movedim(1, -1).double()
    distances = [(vectors - embedding[codes].double()).norm(dim=-1) for codes in (got, expected.codes)]
    return [
        Comparison(
            "distances of the codes",
            probe.images,
            tuple(probe.pixels.shape),
            max(0.0, float((distances[0] - distances[1]).max())),
            CLOSE * max(1.0, float(expected.encoded.square().mean().sqrt())),
            differing_codes=int((got != expected.codes).sum()),
        )
    ]
