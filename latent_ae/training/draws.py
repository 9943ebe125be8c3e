"""The random numbers of updates, each a pure function of the sample or the update that it belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from latent_ae.models.transform import LatentTransform, transform_at
from latent_ae.randomness import derived_seed, sample_noise


@dataclass(frozen=True)
class Draws:
    """What a run draws from, with the settings that say how much."""

    seed: int
    noise_shape: tuple[int, ...]
    """of the bottleneck's noise for one sample"""
    latent_shape: tuple[int, int, int]
    """(c, h, w)"""
    latent_noise: float = 0.0
    """standard deviation of the noise on the latents"""
    equivariance_share: float = 0.0
    """share of the updates with a latent transform"""

    def noise(self, numbers: Sequence[int]) -> Tensor:
        """The bottleneck's noise [B, *noise_shape] for samples of consecutive numbers."""
        return sample_noise(self.seed, numbers[0], len(numbers), self.noise_shape)

    def on_latents(self, numbers: Sequence[int]) -> Tensor | None:
        """The noise [B, c, h, w] on their latents; None if there is none."""
        if not self.latent_noise:
            return None
        draws = sample_noise(self.seed, numbers[0], len(numbers), self.latent_shape, purpose="latents")
        return self.latent_noise * draws

    def transform(self, step: int) -> LatentTransform | None:
        """The latent transform of an update, if it has one."""
        return transform_at(self.seed, step, self.equivariance_share)

    def of_update(self, step: int) -> int:
        """The seed of what an update itself draws."""
        return derived_seed(self.seed, "update", step)
