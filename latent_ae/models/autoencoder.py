"""The stock autoencoders that the project trains, and what holds for them and for those that it only runs."""

from typing import TypeAlias

import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from latent_ae.models.adapters import Adapter
from latent_ae.models.adapters.normalisation import Normalisation, scalars

Autoencoder: TypeAlias = AutoencoderKL | VQModel
"""the Gaussian one, whose encoder gives moments, or the vector-quantised one, whose latents are quantised to decode"""

AnyAutoencoder: TypeAlias = Autoencoder | Adapter
"""also those that are run and measured, and neither trained nor exported"""

CLASSES: dict[str, type[Autoencoder]] = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
"""by `_class_name` in config.json"""


def class_name(model: AnyAutoencoder) -> str:
    """The name of its diffusers class, as `_class_name` in its config.json."""
    return type(model.network if isinstance(model, Adapter) else model).__name__


def factor_of(model: AnyAutoencoder) -> int:
    """Pixels per latent position along a side: 2**(levels - 1) of a stock model."""
    if isinstance(model, Adapter):
        return model.factor
    return int(2 ** (len(model.config["block_out_channels"]) - 1))


def codebook_size(model: AnyAutoencoder) -> int | None:
    """The number of codes of a model whose latents are codes; None of one whose latents have a posterior."""
    size: int | None = model.config.get("num_vq_embeddings")
    return size


def normalisation_of(model: AnyAutoencoder) -> Normalisation:
    """What pipelines do to the raw latents of a model before a diffusion model sees them."""
    if isinstance(model, Adapter):
        return model.normalisation
    return scalars(model.config.get("scaling_factor"), model.config.get("shift_factor"))


def latent_channels(model: AnyAutoencoder) -> int:
    """Of the latents; a VQModel's have as many as the vectors of its codebook."""
    return int(model.config.get("vq_embed_dim") or model.config["latent_channels"])


def latent_shape(model: AnyAutoencoder, size: tuple[int, int]) -> tuple[int, int, int]:
    """(c, h, w) of the latents of an image of `size` (H, W)."""
    return latent_channels(model), size[0] // factor_of(model), size[1] // factor_of(model)


def pad_to_factor(pixels: Tensor, factor: int) -> Tensor:
    """Pixels [B,C,H,W] padded at the bottom and right to multiples of `factor` by repeating the edge."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % factor, 0, -height % factor), mode="replicate")
