"""A model's tensors to latents and back at once, in the model's own precision."""

import torch
from torch import Tensor

from latent_ae.models import Autoencoder
from latent_ae.models.coding import decode_latents, encode_pixels


@torch.inference_mode()
def encode(model: Autoencoder, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => raw latents [B,c,h,w]: the posterior's mode, or the codes' vectors.

    A side that the model's factor does not divide is padded at its end by repeating the last row or column.
    """
    return encode_pixels(model, pixels).latents


@torch.inference_mode()
def decode(model: Autoencoder, latents: Tensor) -> Tensor:
    """Raw latents [B,c,h,w] => pixels [B,C,H,W] clamped to [-1, 1], on the CPU."""
    return decode_latents(model, latents).clamp(-1.0, 1.0).float().cpu()


@torch.inference_mode()
def reconstruct(model: Autoencoder, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => their reconstructions, of exactly the same size, on the CPU."""
    height, width = pixels.shape[-2:]
    return decode(model, encode(model, pixels))[..., :height, :width]
