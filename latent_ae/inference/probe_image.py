"""The picture that formats are tried on."""

import math

import torch
from torch import Tensor

from latent_ae.randomness import torch_generator

_TURNS = (0.3, 1.7, 3.6)
"""of the shades of the first channels"""


def photo_like(channels: int, side: int) -> Tensor:
    """A deterministic picture [1,C,side,side] in [-1, 1] with what photographs have: shades, edges and texture."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    turns = [_TURNS[channel % 3] + channel // 3 for channel in range(channels)]
    shades = torch.stack([0.5 * (x * math.cos(turn) + y * math.sin(turn)) for turn in turns])
    disc = ((x - 0.3).square() + (y + 0.2).square() < 0.25).float()
    stripes = torch.sin(24 * math.pi * x * (1 + y) / 2) * (y > 0.3)
    grain = torch.randn(channels, side, side, generator=torch_generator(0, "test picture"))
    return (shades - 0.6 * disc + 0.3 * stripes + 0.05 * grain).clamp(-1, 1)[None]
