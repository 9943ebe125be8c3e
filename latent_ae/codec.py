"""Images to latents and back with a stock model, for images of any size."""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.models import factor_of


@torch.inference_mode()
def encode(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => raw latents [B,c,h,w], the posterior's mode.

    A side that the model's factor does not divide is padded at its end by repeating the last row or column.
    """
    return _posterior_mode(model, pad_to_factor(pixels, factor_of(model)))


@torch.inference_mode()
def decode(model: AutoencoderKL, latents: Tensor) -> Tensor:
    """Raw latents [B,c,h,w] => pixels [B,C,H,W] clamped to [-1, 1], on the CPU."""
    pixels: Tensor = model.decode(latents.to(model.device)).sample
    return pixels.clamp(-1.0, 1.0).float().cpu()


@torch.inference_mode()
def reconstruct(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => their reconstructions, of exactly the same size, on the CPU."""
    height, width = pixels.shape[-2:]
    return decode(model, encode(model, pixels))[..., :height, :width]


def pad_to_factor(pixels: Tensor, factor: int) -> Tensor:
    """Pixels [B,C,H,W] padded at the bottom and right to multiples of `factor` by repeating the edge."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % factor, 0, -height % factor), mode="replicate")


def _posterior_mode(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    latents: Tensor = model.encode(pixels.to(model.device)).latent_dist.mode()
    return latents
