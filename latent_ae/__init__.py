"""latent_ae: train, measure, serve and export the image autoencoders that latent diffusion stands on.

    vae = latent_ae.load()
    latents = vae.encode("photo.jpg")
    vae.decode(latents).save("decoded.png")

Importing the package imports neither torch nor diffusers: each name is imported at its first use.
"""

import importlib
import sys
from typing import TYPE_CHECKING

from latent_ae._version import __version__
from latent_ae.torchvision_guard import guard_torchvision

if sys.platform == "win32":  # no fcntl, and folders cannot be synced
    raise ImportError("latent_ae runs on Linux and macOS; on Windows, run it in WSL 2")

if TYPE_CHECKING:
    from latent_ae.api import VAE, load
    from latent_ae.errors import UserError
    from latent_ae.io.latent_file.latents import Latents
    from latent_ae.latent_dataset import LatentDataset

__all__ = ["VAE", "LatentDataset", "Latents", "UserError", "__version__", "load"]

_MODULES = {
    "load": "latent_ae.api",
    "VAE": "latent_ae.api",
    "Latents": "latent_ae.io.latent_file.latents",
    "LatentDataset": "latent_ae.latent_dataset",
    "UserError": "latent_ae.errors",
}

# Before anything imports diffusers, lpips or torchmetrics: all three import torchvision.
guard_torchvision()


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'latent_ae' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
