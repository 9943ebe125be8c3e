"""A hierarchical prior over the raw latents of an AutoencoderKL: with its decoder below, a hierarchical VAE.

z [c,h,w] are the latents, u_1 ... u_L further ones on ever finer grids, from 1x1 on:

    p(x, z, u) = p(x|z) p(z|u_1..u_L) prod_l p(u_l|u_<l)        q(z, u|x) = q(z|x) prod_l q(u_l|u_<l, z)

p(x|z) and q(z|x) are the autoencoder. Both directions go from the top down and share a path, as in a ladder VAE
(Sonderby et al. 2016) and the very deep VAE (Child 2021); that the part above z is trained after the part below is the
two-stage VAE of Dai and Wipf (2019). All factors are diagonal Gaussians.

B: latents in a batch; L: levels, the top first.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from latent_ae.models.errors import ModelError
from latent_ae.models.learned_prior import DrawOptions
from latent_ae.randomness import torch_generator

_LOGVAR_RANGE = (-15.0, 15.0)
"""deviations of 1/1800 to 1800: far outside of what standardised latents have, and safe to divide by in float32"""


class HierarchyTerms(NamedTuple):
    """What -log p(z) is bounded by, in nats: reconstruction + the sum of kl."""

    reconstruction: Tensor
    """[B] -log p(z|u), u drawn from q"""
    kl: Tensor
    """[B, L] KL(q(u_l|u_<l, z) || p(u_l|u_<l)), by its formula"""
    log_ratio: Tensor
    """[B, L] log p(u_l|u_<l) - log q(u_l|u_<l, z) at what was drawn; its mean over draws is -kl"""


class HierarchicalPrior(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """p(z) of latents [channels, side, side], and the q(u|z) that goes with it.

    Args:
        channels: of z.
        side: of z's grid.
        width: channels of the network.
        level_channels: of every u_l.
        levels_per_grid: u's on each of the grids 1x1, 2x2, 4x4 ... up to z's own.
        encoder_identity: of the autoencoder whose latents z are.
    """

    classes: tuple[int, ...] = ()

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        *,
        channels: int,
        side: int,
        width: int = 64,
        level_channels: int = 8,
        levels_per_grid: int = 1,
        encoder_identity: str = "",
    ) -> None:
        super().__init__()
        if min(channels, side, width, level_channels, levels_per_grid) < 1:
            raise ModelError(
                "a prior needs channels, side, width, level_channels and levels_per_grid of 1 or more, got "
                f"{channels}, {side}, {width}, {level_channels}, {levels_per_grid}"
            )
        self.latent_shape, self.side = (channels, side, side), side
        self.encoder_identity = encoder_identity
        self.grids = _grids(side)
        self.level_shapes = [(level_channels, grid, grid) for grid in self.grids for _ in range(levels_per_grid)]
        # Of the latents by channel, [c,1,1]: the network sees z with both taken away.
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.bottom_up = nn.ModuleList(_Residual(width, grid) for grid in reversed(self.grids))
        self.places = nn.ParameterList(nn.Parameter(torch.zeros(width, grid, grid)) for grid in self.grids)
        self.levels = nn.ModuleList(_Level(width, level_channels, grid) for _, grid, _ in self.level_shapes)
        self.conv_out = _zero(nn.Conv2d(width, 2 * channels, 3, padding=1))

    @property
    def noise_values(self) -> int:
        """N(0, 1) values that all u of one z are drawn with."""
        return sum(math.prod(shape) for shape in self.level_shapes)

    @property
    def draw_values(self) -> int:
        """N(0, 1) values that `draw` takes for one z: those of the u, the top first, then z's own."""
        return self.noise_values + math.prod(self.latent_shape)

    @property
    def grid_ends(self) -> list[int]:
        """How many of the noise's values decide all levels on no grid, on the 1x1 grid, on that and the 2x2 grid ..."""
        per_grid = self.config["levels_per_grid"] * self.config["level_channels"]
        return list(accumulate((per_grid * grid**2 for grid in self.grids), initial=0))

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take a mean and a standard deviation for each channel of z.

        Raises ModelError for a channel that is the same everywhere: it has no density.
        """
        if constant := [number for number, each in enumerate(std) if not each > 0]:
            raise ModelError(
                f"channels {constant} of the latents are the same everywhere: train the autoencoder with a KL term, or "
                "with fewer model.latent_channels"
            )
        self.mean.copy_(torch.tensor(mean)[:, None, None])
        self.std.copy_(torch.tensor(std)[:, None, None])

    def forward(self, latents: Tensor, noise: Tensor) -> HierarchyTerms:
        """Raw latents [B,c,h,w] and noise [B,noise_values] from N(0, 1) => the terms, float32, with gradient."""
        self._check(latents, noise, self.noise_values)
        z = (latents.float() - self.mean) / self.std
        seen: dict[int, Tensor] = {}
        hidden = self.conv_in(z)
        for grid, block in zip(reversed(self.grids), self.bottom_up, strict=True):
            hidden = block(F.adaptive_avg_pool2d(hidden, grid))
            seen[grid] = hidden
        mean, logvar, kls, ratios = self._down(noise, seen)
        # The density of z itself and not of z with mean and deviation taken away.
        volume = self.std.log().sum() * self.grids[-1] ** 2
        reconstruction = -_log_normal(z, mean, logvar).sum((1, 2, 3)) + volume
        return HierarchyTerms(reconstruction, torch.stack(kls, 1), torch.stack(ratios, 1))

    @torch.no_grad()
    def log_density(self, latents: Tensor, noise: Tensor) -> Tensor:
        """Raw latents [K,c,h,w] and noise [K,noise_values] => log p(z, u) - log q(u|z) at the u of that noise.

        [K] float64 on the CPU, in nats. exp() of it is an unbiased estimate of p(z), its mean over noise a lower bound
        of log p(z).
        """
        terms = self(latents.float().to(self.device), noise.float().to(self.device))  # Apple's GPUs have no float64
        estimate: Tensor = terms.log_ratio.cpu().double().sum(1) - terms.reconstruction.cpu().double()
        return estimate

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        """Raw latents [N,c,h,w] from p(z), float32; the same for the same noise [N,draw_values] from N(0, 1).

        Latents whose noise begins alike have the same u_l from the top down to where it does.
        """
        self._check(None, noise, self.draw_values)
        of_levels, own = noise.float().to(self.device).tensor_split([self.noise_values], 1)
        mean, logvar, _, _ = self._down(of_levels, None)
        z = mean + torch.exp(0.5 * logvar) * own.unflatten(1, self.latent_shape)
        latents: Tensor = z * self.std + self.mean
        return latents

    def drawn(self, count: int, *, seed: int, options: DrawOptions) -> Tensor:
        """Raw latents [count,c,h,w], as every learned prior draws them.

        The temperature is what the standard deviation of every level is multiplied by. Raises UserError for other
        options.
        """
        options.only("temperature", of="a hierarchical prior")
        noise = [torch.randn(self.draw_values, generator=torch_generator(seed, "prior", i)) for i in range(count)]
        return self.draw((1.0 if options.temperature is None else options.temperature) * torch.stack(noise))

    def _down(self, noise: Tensor, seen: dict[int, Tensor] | None) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
        """From the top down: mean and log-variance of p(z|u), KL and log-ratio of each level ([B] each, none in
        drawing). `seen` is what each grid saw of z; None draws from p(u).
        """
        levels = iter(zip(self.levels, _split(noise, self.level_shapes), strict=True))
        hidden = noise.new_zeros(len(noise), self.config["width"], 1, 1)
        kls, ratios = [], []
        for grid, place in zip(self.grids, self.places, strict=True):
            hidden = F.interpolate(hidden, size=(grid, grid)) + place
            for _ in range(self.config["levels_per_grid"]):
                level, own = next(levels)
                hidden, kl, ratio = level(hidden, None if seen is None else seen[grid], own)
                kls.append(kl)
                ratios.append(ratio)
        mean, logvar = self.conv_out(hidden).float().chunk(2, 1)
        return mean, logvar.clamp(*_LOGVAR_RANGE), kls, ratios

    def _check(self, latents: Tensor | None, noise: Tensor, values: int) -> None:
        if latents is not None and latents.shape[1:] != self.latent_shape:
            raise ValueError(f"latents must be [B, {', '.join(map(str, self.latent_shape))}], got {[*latents.shape]}")
        if noise.shape[1:] != (values,) or (latents is not None and len(noise) != len(latents)):
            count = "N" if latents is None else len(latents)
            raise ValueError(f"noise must be [{count}, {values}], got {[*noise.shape]}")


class _Residual(nn.Module):
    """x + conv(silu(conv(silu(norm(x))))), which starts as x."""

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        size = 3 if grid > 1 else 1  # around a single place there is only padding
        self.norm = nn.GroupNorm(1, width)
        self.conv1 = nn.Conv2d(width, width, size, padding=size // 2)
        self.conv2 = _zero(nn.Conv2d(width, width, size, padding=size // 2))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))
        return x + residual


class _Level(nn.Module):
    """One u_l: its prior from what is above, its posterior from that and what was seen of z, its effect below."""

    def __init__(self, width: int, channels: int, grid: int) -> None:
        super().__init__()
        self.channels = channels
        self.prior = nn.Sequential(_Residual(width, grid), _zero(nn.Conv2d(width, 2 * channels + width, 1)))
        self.posterior = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), _Residual(width, grid), _zero(nn.Conv2d(width, 2 * channels, 1))
        )
        self.effect = nn.Conv2d(channels, width, 1)
        self.block = _Residual(width, grid)

    def forward(self, above: Tensor, seen: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What goes on down, and KL and log-ratio by image, which are zero where u_l is drawn from the prior."""
        prior, more = self.prior(above).tensor_split([2 * self.channels], 1)
        prior_mean, prior_logvar = prior.float().chunk(2, 1)
        prior_logvar = prior_logvar.clamp(*_LOGVAR_RANGE)
        if seen is None:
            drawn = prior_mean + torch.exp(0.5 * prior_logvar) * noise
            kl = ratio = noise.new_zeros(len(noise))
        else:
            mean, logvar = self.posterior(torch.cat([above, seen], 1)).float().chunk(2, 1)
            logvar = logvar.clamp(*_LOGVAR_RANGE)
            drawn = mean + torch.exp(0.5 * logvar) * noise
            precision = torch.exp(-prior_logvar)
            kl = 0.5 * ((mean - prior_mean).square() * precision + torch.exp(logvar) * precision - 1)
            kl = (kl + 0.5 * (prior_logvar - logvar)).sum((1, 2, 3))
            ratio = 0.5 * (noise.square() - (drawn - prior_mean).square() * precision + logvar - prior_logvar)
            ratio = ratio.sum((1, 2, 3))
        return self.block(above + more + self.effect(drawn.to(above.dtype))), kl, ratio


def _grids(side: int) -> list[int]:
    """Sides from 1 up to `side`, each half of the next, rounded up."""
    grids = [side]
    while grids[0] > 1:
        grids.insert(0, -(-grids[0] // 2))
    return grids


def _split(noise: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    sizes = [math.prod(shape) for shape in shapes]
    return [part.unflatten(1, shape) for part, shape in zip(noise.split(sizes, 1), shapes, strict=True)]


def _log_normal(value: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + logvar + (value - mean).square() * torch.exp(-logvar))


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Starts at zero, so that at first every factor is N(0, 1) and every block passes on what it is given."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer
