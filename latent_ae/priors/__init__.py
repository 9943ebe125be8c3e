"""Priors: networks that learn to draw the latents of an autoencoder. train/train_prior.py trains each of PRIORS.

prior       what a kind of prior is            source      the latents and their autoencoder
settings    of a run, whatever the kind        state       what a checkpoint holds
mixture     a prior that is fitted, not trained: latent-ae fit-prior
"""

from latent_ae.priors.diffusion import DiffusionConfig
from latent_ae.priors.hierarchy import HierarchyConfig
from latent_ae.priors.prior import PriorConfig
from latent_ae.priors.tokens import TokensConfig

PRIORS: dict[str, type[PriorConfig]] = {
    "hierarchy": HierarchyConfig,
    "diffusion": DiffusionConfig,
    "tokens": TokensConfig,
}
"""the settings of each kind, which build it"""
