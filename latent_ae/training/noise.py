"""The random numbers of updates, each a pure function of the sample or the update that it belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latent_ae.models.transform import LatentTransform, transform_at
from latent_ae.randomness import derived_seed, sample_noise

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Draws:
    """What a run draws from, with the settings that say how much."""

    seed: int
    latent_channels: int
    factor: int
    """pixels per latent position along a side"""
    noise_shape: Callable[[tuple[int, int, int]], Shape]
    """of the bottleneck's noise for one sample with latents (c, h, w)"""
    latent_noise: float = 0.0
    """standard deviation of the noise on the latents"""
    equivariance_share: float = 0.0
    """share of the updates with a latent transform"""

    def latent_shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """(c, h, w) of the latents of images of a size that ends in (H, W)."""
        return (self.latent_channels, size[-2] // self.factor, size[-1] // self.factor)

    def noise(self, numbers: Sequence[int], size: Sequence[int], device: torch.device | None = None) -> Tensor:
        """The bottleneck's noise [B, *noise_shape] for samples of consecutive numbers, images of size (..., H, W)."""
        shape = self.noise_shape(self.latent_shape(size))
        return sample_noise(self.seed, numbers[0], len(numbers), shape, device=device)

    def on_latents(self, numbers: Sequence[int], size: Sequence[int], device: torch.device) -> Tensor | None:
        """The noise [B, c, h, w] on their latents; None if there is none."""
        if not self.latent_noise:
            return None
        shape = self.latent_shape(size)
        draws = sample_noise(self.seed, numbers[0], len(numbers), shape, purpose="latents", device=device)
        return self.latent_noise * draws

    def transform(self, step: int) -> LatentTransform | None:
        """The latent transform of an update, if it has one."""
        return transform_at(self.seed, step, self.equivariance_share)

    def of_update(self, step: int) -> int:
        """The seed of what an update itself draws."""
        return derived_seed(self.seed, "update", step)
