"""Pixels to latents and back through a model of any class, for images of any size.

AutoencoderKL:  pixels --pad--> encoder --> mean, logvar ---------------> latents --> decoder --> pixels
VQModel:        pixels --pad--> encoder --> vectors --> nearest codes --> latents --> decoder --> pixels
Adapter:        as AutoencoderKL
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.models.adapters import Adapter
from latent_ae.models.autoencoder import AnyAutoencoder, factor_of, pad_to_factor
from latent_ae.models.posterior import split_moments


class Encoded(NamedTuple):
    """What a model makes of images."""

    outputs: Tensor
    """moments [B, 2c, h, w], or a VQModel's vectors [B, c, h, w] before they are quantised"""
    latents: Tensor
    """[B, c, h, w] raw: the posterior's mode, or the codes' vectors"""
    logvar: Tensor | None
    """[B, c, h, w] of the posterior, not clamped; None where there is no posterior"""
    codes: Tensor | None
    """[B, h, w] int64, of a VQModel"""


def encode_pixels(model: AnyAutoencoder, pixels: Tensor) -> Encoded:
    """Pixels [B,C,H,W] in [-1, 1] => latents, on the model's device.

    A side that the model's factor does not divide is padded at its end by repeating the last row or column.
    """
    padded = pad_to_factor(pixels, factor_of(model)).to(model.device, model.dtype)
    if isinstance(model, Adapter):
        moments = model.encoder(padded)
        return Encoded(moments, *split_moments(moments), None)
    if isinstance(model, AutoencoderKL):
        # Not latent_dist.logvar: its clamp would hide one that is infinite.
        moments = model.encode(padded).latent_dist.parameters
        return Encoded(moments, *split_moments(moments), None)
    vectors = model.encode(padded).latents
    latents, _, (_, _, indices) = model.quantize(vectors)
    return Encoded(vectors, latents, None, indices.view(len(pixels), *vectors.shape[2:]))


def decode_latents(model: AnyAutoencoder, latents: Tensor) -> Tensor:
    """Raw latents [B,c,h,w] => pixels [B,C,H,W] on the model's device, neither clamped nor cropped.

    A VQModel takes for each position the code nearest to it, which leaves the vectors of codes what they are.
    """
    given = latents.to(model.device, model.dtype)
    pixels: Tensor = model.decoder(given) if isinstance(model, Adapter) else model.decode(given).sample
    return pixels


@torch.inference_mode()
def encode(model: AnyAutoencoder, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => raw latents [B,c,h,w]: the posterior's mode, or the codes' vectors.

    A side that the model's factor does not divide is padded at its end by repeating the last row or column.
    """
    return encode_pixels(model, pixels).latents


@torch.inference_mode()
def decode(model: AnyAutoencoder, latents: Tensor) -> Tensor:
    """Raw latents [B,c,h,w] => pixels [B,C,H,W] clamped to [-1, 1], on the CPU."""
    return decode_latents(model, latents).clamp(-1.0, 1.0).float().cpu()


@torch.inference_mode()
def reconstruct(model: AnyAutoencoder, pixels: Tensor) -> Tensor:
    """Pixels [B,C,H,W] in [-1, 1] => their reconstructions, of exactly the same size, on the CPU."""
    height, width = pixels.shape[-2:]
    return decode(model, encode(model, pixels))[..., :height, :width]


@contextmanager
def inference(model: AnyAutoencoder) -> Iterator[None]:
    """Eval mode without gradients; every module gets its own mode back, as parts of a model may be frozen."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
