"""How good an autoencoder is: its reconstructions, its latents and its codes.

    quality             PSNR, SSIM, MS-SSIM, L1, gradient energy and colour shift of a reconstruction, and all together
    fid                 rFID: how far the reconstructions' features are from the images', as sets
    latents             KL, moments and active units of the posteriors
    equivariance        whether the latents turn and shrink with the image
    codebook            which codes are used, and the bits they take
    likelihood_bounds   bounds of log p(x) of 8-bit images under a KL autoencoder

Functions give a value per image; classes add up what has no value per image, and merge exactly over any split.
"""

from latent_ae.evaluation.metrics.codebook import CodebookStatistics
from latent_ae.evaluation.metrics.equivariance import EquivarianceStatistics
from latent_ae.evaluation.metrics.fid import FidUnavailable, FrechetStatistics, InceptionFeatures
from latent_ae.evaluation.metrics.latents import ACTIVE_VARIANCE, LatentStatistics, Scaling
from latent_ae.evaluation.metrics.quality import (
    MS_SSIM_MINIMUM_SIDE,
    SSIM_MINIMUM_SIDE,
    color_bias,
    compare,
    gradient_energy_ratio,
    l1,
    ms_ssim,
    psnr,
    ssim,
)

__all__ = [
    "ACTIVE_VARIANCE",
    "MS_SSIM_MINIMUM_SIDE",
    "SSIM_MINIMUM_SIDE",
    "CodebookStatistics",
    "EquivarianceStatistics",
    "FidUnavailable",
    "FrechetStatistics",
    "InceptionFeatures",
    "LatentStatistics",
    "Scaling",
    "color_bias",
    "compare",
    "gradient_energy_ratio",
    "l1",
    "ms_ssim",
    "psnr",
    "ssim",
]
