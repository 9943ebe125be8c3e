"""What pipelines do to raw latents before their diffusion model sees them: a shift and a scale, of a shape by class."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalisation:
    """Normalised latents are (z - shift) * scale."""

    shift: Tensor
    """[c or 1, p, p] float32: of each channel, and of each position of the patches of p by p of which a pipeline makes
    channels"""
    scale: Tensor
    """[c or 1, p, p] float32"""

    def applied(self, latents: Tensor) -> Tensor:
        """Raw latents [..., c, h, w] => normalised ones."""
        return (latents - _over(self.shift, latents)) * _over(self.scale, latents)

    def undone(self, latents: Tensor) -> Tensor:
        """Normalised latents [..., c, h, w] => raw ones."""
        return latents / _over(self.scale, latents) + _over(self.shift, latents)


def scalars(scaling_factor: float | None, shift_factor: float | None) -> Normalisation:
    """One shift and one scale for all values; None leaves out what it stands for."""
    numbers = (shift_factor or 0.0, 1.0 if scaling_factor is None else scaling_factor)
    return Normalisation(*(torch.full((1, 1, 1), number, dtype=torch.float32) for number in numbers))


def unscaled(_network: Any) -> Normalisation:
    """None: the pipelines of the class take raw latents."""
    return scalars(None, None)


def by_scaling_factor(network: Any) -> Normalisation:
    """`scaling_factor` and, where there is one, `shift_factor` of the config."""
    return scalars(network.config.get("scaling_factor"), network.config.get("shift_factor"))


def by_channel(network: Any) -> Normalisation:
    """`latents_mean` and `latents_std` of the config; none where they are null."""
    mean, std = network.config["latents_mean"], network.config["latents_std"]
    if mean is None or std is None:
        return scalars(None, None)
    return Normalisation(_column(mean), 1.0 / _column(std))


def by_channel_and_frame(network: Any) -> Normalisation:
    """The same with numbers for each frame of each channel, of which an image has the first."""
    mean, std = network.config["latents_mean"], network.config["latents_std"]
    if mean is None or std is None:
        return scalars(None, None)
    frames = len(mean) // network.config["latent_channels"]
    return Normalisation(_column(mean[::frames]), 1.0 / _column(std[::frames]))


def by_buffers(network: Any) -> Normalisation:
    """`latents_mean` and `latents_std` among the weights, and `scaling_factor` of the config."""
    return Normalisation(_column(network.latents_mean), network.config["scaling_factor"] / _column(network.latents_std))


def by_batch_norm(network: Any) -> Normalisation:
    """The running statistics of `bn` over patches, whose channels are those of the latents times their positions."""
    height, width = network.config["patch_size"]
    shape = (-1, height, width)
    deviation = torch.sqrt(network.bn.running_var.detach() + network.config["batch_norm_eps"])
    return Normalisation(network.bn.running_mean.detach().cpu().view(shape), 1.0 / deviation.cpu().view(shape))


def _column(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32).detach().cpu().view(-1, 1, 1)


def _over(values: Tensor, latents: Tensor) -> Tensor:
    """Repeated over the positions of latents, from the upper left on."""
    if values.shape[-1] == values.shape[-2] == 1:
        return values.to(latents)
    h, w = latents.shape[-2:]
    times = math.ceil(h / values.shape[-2]), math.ceil(w / values.shape[-1])
    return values.repeat(1, *times)[:, :h, :w].to(latents)
