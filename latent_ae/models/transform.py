"""Transforms that are applied to latents and target alike, so that the latent space follows the image.

EQ-VAE (Kouzelis et al. 2025, "EQ-VAE: Equivariance Regularized Latent Space"): decode(t(encode(x))) is compared with
t(x) for scalings and quarter turns t.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_ae.randomness import numpy_generator

_SCALES = tuple(k / 32 for k in range(8, 32))
"""the paper's code draws the scale from U{8 .. 31} / 32"""


@dataclass(frozen=True)
class LatentTransform:
    """Scale, then turn."""

    scale: float
    """of both sides, at most 1; sides are rounded to whole latent positions"""
    turns: int
    """quarter turns counterclockwise"""

    def of_latents(self, latents: Tensor) -> Tensor:
        """[B, c, h, w] => [B, c, h', w'] (sides swapped by odd turns)."""
        height, width = latents.shape[-2:]
        return self._moved(latents, self._sides(height, width))

    def of_pixels(self, pixels: Tensor, factor: int) -> Tensor:
        """[B, C, H, W] => the size that the transformed latents decode to, `factor` pixels a position."""
        height, width = pixels.shape[-2:]
        rows, columns = self._sides(height // factor, width // factor)
        return self._moved(pixels, (rows * factor, columns * factor))

    def _sides(self, height: int, width: int) -> tuple[int, int]:
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def _moved(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        if tuple(values.shape[-2:]) != size:
            values = F.interpolate(values, size, mode="bilinear", antialias=True, align_corners=False)
        return torch.rot90(values, self.turns, dims=(-2, -1))


def smallest_side(side: int, factor: int) -> int:
    """The least that any transform makes of a side of `side` pixels."""
    shrunk, _ = LatentTransform(min(_SCALES), 0)._sides(side // factor, side // factor)
    return shrunk * factor


def transform_at(seed: int, step: int, share: float) -> LatentTransform | None:
    """The transform of an update, or None for the updates (1 - `share` of them) that train on whole images.

    One for the whole update, as images of different sizes make no batch; a pure function of seed and step.
    """
    if share == 0.0:
        return None
    generator = numpy_generator(seed, "transform", step)
    if generator.random() >= share:
        return None
    return LatentTransform(float(generator.choice(_SCALES)), int(generator.integers(1, 4)))
