"""The Gaussian bottleneck of a variational autoencoder."""

from typing import ClassVar

import torch
from torch import Tensor

from latent_ae.models.bottlenecks.protocol import ENCODER_SIDE, Bottleneck, BottleneckOutput

# The range to which diffusers' DiagonalGaussianDistribution clamps as well: exported and trained model agree.
LOGVAR_RANGE = (-30.0, 20.0)


class KLBottleneck(Bottleneck):
    """Draws z = mean + exp(logvar / 2) * noise and prices it by KL(N(mean, exp(logvar)) || N(0, 1)).

        moments [B,2c,h,w] --> mean, logvar --> z [B,c,h,w]
                                    |
                                    +--> KL per unit = (mean^2 + exp(logvar) - 1 - logvar) / 2

    (Kingma & Welling 2014, appendix B.)

    Args:
        free_bits: floor lambda in nats per latent channel and position, sum_j max(lambda, KL_j) (Kingma et al. 2016,
            eq. 14). The paper takes the maximum over minibatch averages; here it is taken per image, so that the loss
            does not depend on how a global batch is split over processes.
    """

    trains: ClassVar[dict[str, frozenset[str]]] = {"kl": ENCODER_SIDE}

    def __init__(self, free_bits: float = 0.0) -> None:
        super().__init__()
        self.free_bits = free_bits

    def noise_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """One number a latent value."""
        return latent_shape

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:
        """Moments h [B,2c,h,w] and noise [B,c,h,w] from N(0, 1) => latents, and KL in nats per image."""
        mean, logvar = h.float().chunk(2, dim=1)
        logvar = logvar.clamp(*LOGVAR_RANGE)
        latents = mean + torch.exp(0.5 * logvar) * noise
        unit_kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar)
        priced = unit_kl.clamp(min=self.free_bits) if self.free_bits else unit_kl
        return BottleneckOutput(
            latents=latents,
            codes=None,
            losses={"kl": priced.sum(dim=(1, 2, 3))},
            stats={"kl_nats": unit_kl.detach().sum(dim=(1, 2, 3))},
            sums={},
            candidates=None,
        )
