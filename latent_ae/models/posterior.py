"""The Gaussian posterior N(mean, exp(logvar)) of a KL autoencoder: how it is stored, sampled and priced.

Training, inference, evaluation and data sets of latents all use these functions. B c h w: images, latent grid.
"""

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)
"""diffusers' DiagonalGaussianDistribution clamps to it, so that a trained and an exported model agree"""


def split_moments(moments: Tensor) -> tuple[Tensor, Tensor | None]:
    """Moments [B,2c,h,w] => mean and logvar [B,c,h,w] each, neither of them clamped.

    A plain autoencoder is exported with the lowest logvar everywhere: it has no posterior, and its logvar is None.
    """
    mean, logvar = moments.chunk(2, dim=1)
    return mean, None if bool((logvar <= LOGVAR_RANGE[0]).all()) else logvar


def sample_posterior(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Sample mean + exp(logvar / 2) * noise with noise from N(0, 1); logvar is clamped to LOGVAR_RANGE."""
    return mean + torch.exp(0.5 * logvar.clamp(*LOGVAR_RANGE)) * noise


def kl_nats(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every value in nats: (mean^2 + var - 1 - logvar) / 2.

    Kingma and Welling 2014, appendix B. logvar is clamped to LOGVAR_RANGE.
    """
    logvar = logvar.clamp(*LOGVAR_RANGE)
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
