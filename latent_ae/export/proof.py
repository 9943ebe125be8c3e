"""What an export is compared with, and whether it passes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latent_ae.export.probes import Answer, Probe
from latent_ae.models import Autoencoder

CLOSE = 1e-4
"""the most that a consumer with arithmetic of its own may be off, of values of about 1"""


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
    vectors = expected.encoded.movedim(1, -1)
    excess = _distance(vectors, embedding[got]) - _distance(vectors, embedding[expected.codes])
    return [
        Comparison(
            "distances of the codes",
            probe.images,
            tuple(probe.pixels.shape),
            max(0.0, float(excess.max())),
            CLOSE * max(1.0, float(vectors.square().mean().sqrt())),
            differing_codes=int((got != expected.codes).sum()),
        )
    ]


def _distance(vectors: Tensor, codes: Tensor) -> Tensor:
    distances: Tensor = (vectors.double() - codes.double()).norm(dim=-1)
    return distances
