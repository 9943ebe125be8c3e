"""Interpolations between latents, and latents drawn from a prior. Latents are raw."""

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.randomness import torch_generator

_PARALLEL = 1e-4
"""sine of an angle below which an arc is as good as a line, and dividing by the sine is not safe"""


def interpolate(a: Tensor, b: Tensor, steps: int, *, spherical: bool) -> Tensor:
    """Latents [...] and [...] => [steps, ...] from `a` to `b`, both included exactly.

    Spherical (Shoemake 1985) goes along the arc between them as vectors of all their values, at the angle's pace, and
    keeps the length that a line would lose in its middle; along parallel or opposite vectors, which have no arc, it is
    the line. Raises UserError for fewer than 2 steps and latents of different shapes.
    """
    if steps < 2:
        raise UserError(f"an interpolation needs at least 2 steps, got {steps}")
    if a.shape != b.shape:
        raise UserError(
            f"the latents have different shapes, {list(a.shape)} and {list(b.shape)}: take images of one size"
        )
    shares = torch.linspace(0, 1, steps).tolist()
    between = _slerp if spherical else torch.lerp
    return torch.stack([a, *(between(a, b, share) for share in shares[1:-1]), b])


def interpolate_grid(corners: Tensor, side: int) -> Tensor:
    """Latents [4,c,h,w] of the upper left, upper right, lower left and lower right => [side,side,c,h,w] bilinear.

    Raises UserError for a side below 2 and another number of corners.
    """
    if len(corners) != 4:
        raise UserError(f"an interpolation grid needs 4 corners, got {len(corners)}")
    left, right = (interpolate(corners[top], corners[top + 2], side, spherical=False) for top in (0, 1))
    return torch.stack([interpolate(a, b, side, spherical=False) for a, b in zip(left, right, strict=True)])


def prior_draw(shape: tuple[int, ...], count: int, *, seed: int) -> Tensor:
    """[count, *shape] from N(0, 1); a draw follows from the seed and its place alone."""
    return torch.stack([torch.randn(shape, generator=torch_generator(seed, "prior", i)) for i in range(count)])


def _slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    one, other = a.cpu().double().flatten(), b.cpu().double().flatten()  # not every device has float64
    cosine = (one @ other) / (one.norm() * other.norm())
    sine = (1 - cosine.square()).clamp(min=0).sqrt()
    if not float(sine) > _PARALLEL:  # NaN where a vector is zero
        return torch.lerp(a, b, share)
    angle = torch.atan2(sine, cosine)
    mixed: Tensor = (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / sine
    return mixed.view(a.shape).to(a)
