"""latent_ae: train, measure and export the image autoencoders that latent diffusion stands on."""

from latent_ae._version import __version__
from latent_ae.torchvision_guard import guard_torchvision

__all__ = ["__version__"]

# Before anything imports diffusers, lpips or torchmetrics: all three import torchvision.
guard_torchvision()
