"""Finite scalar quantisation: a codebook that is a grid."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latent_ae.config import LossConfig, ModelConfig
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks.codebook import grid_of, straight_through, vectors_of
from latent_ae.models.bottlenecks.protocol import BottleneckOutput
from latent_ae.models.bottlenecks.quantizer import Quantizer, QuantizerConfig, squared_error, stock_codebook
from latent_ae.models.errors import ModelError


class FSQBottleneck(Quantizer):
    """Rounds each channel to one of a few evenly spaced values (Mentzer et al. 2023, "Finite Scalar Quantization").

        h [B,c,h,w] --> clip to [-1, 1] --> round channel j to the nearest of L_j values 2 i / (L_j - 1) - 1

    The grid of the prod(L_j) codes is the codebook, and rounding is the search for the nearest of them, so that the
    stock model does the same. Nothing is to be learned and there is no term of its own.

    The paper bounds z by tanh instead of clipping, which the stock model could not do; and for an even L it shifts the
    grid so that 0 is one of the values, where ours is symmetric. A clip has no gradient beyond its ends: here one that
    draws z back into [-1, 1] passes and one that drives it further out does not, so z neither drifts nor gets stuck.

    Args:
        codebook: the stock model's codebook; its [K, c] must be [prod(levels), len(levels)], and it is overwritten.
        levels: number of values of each channel, each 2 or more.

    Raises ModelError where codebook and levels do not fit.
    """

    def __init__(self, codebook: nn.Embedding, *, levels: Sequence[int]) -> None:
        super().__init__(codebook)
        if min(levels) < 2:
            raise ModelError(f"fsq levels must be 2 or more each, got {tuple(levels)}")
        if (shape := tuple(codebook.weight.shape)) != (wanted := (math.prod(levels), len(levels))):
            raise ModelError(f"fsq levels {tuple(levels)} need a codebook of shape {wanted}, got {shape}")
        self.levels = tuple(levels)
        codebook.requires_grad_(False)
        self._fill(codebook)

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:  # noqa: ARG002
        """Values h [B,c,h,w] => latents on the grid. Statistics: quantization_error (mean square), clipped (share)."""
        with torch.autocast(h.device.type, enabled=False):
            encoded = vectors_of(h)
            codes = self.nearest(encoded)
            e = self.codebook(codes)
            z = _InwardClip.apply(encoded) if self.training else encoded  # type: ignore[no-untyped-call]  # torch leaves apply untyped
            return BottleneckOutput(
                latents=grid_of(straight_through(z, e), h),
                codes=codes.view(len(h), *h.shape[-2:]),
                losses={},
                stats={
                    "quantization_error": squared_error(encoded, e).detach(),
                    "clipped": (encoded.abs() > 1.0).float().mean(dim=(1, 2)),
                },
                sums={"counts": self.counts(codes)},
            )

    def fold(self, autoencoder: nn.Module) -> None:
        """Undo what averaging did to the grid's last bits."""
        self._fill(stock_codebook(autoencoder))

    @torch.no_grad()
    def _fill(self, codebook: nn.Embedding) -> None:
        codebook.weight.copy_(grid(self.levels))


def grid(levels: Sequence[int]) -> Tensor:
    """All combinations of the channels' values, [prod(levels), len(levels)] in [-1, 1]; the first channel moves first.

    Code k has in channel j value number k // prod(levels[:j]) % levels[j], as in the paper.
    """
    values = [2.0 * torch.arange(count) / (count - 1) - 1.0 for count in levels]
    return torch.cartesian_prod(*reversed(values)).reshape(-1, len(values)).flip(1)


class _InwardClip(torch.autograd.Function):
    """Clip to [-1, 1]; beyond the ends, a gradient passes if descending along it leads back."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.clamp(-1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return torch.where((z.abs() <= 1.0) | (gradient * z > 0), gradient, 0.0)


class FSQConfig(QuantizerConfig):
    """fsq: finite scalar quantisation."""

    kind: Literal["fsq"] = "fsq"
    levels: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1, examples=[(8, 5, 5, 5)])]
    """the values per latent channel, e.g. 8 5 5 5; their product is the number of codes"""

    title = "A vector-quantised autoencoder (`diffusers.VQModel`, its codebook the grid of finite scalar quantisation)"

    def check_model(self, model: ModelConfig) -> None:
        """The grid's channels are those of its levels."""
        super().check_model(model)
        if model.init_from is not None and model.latent_channels is not None:
            raise ValueError(
                "bottleneck.kind fsq has a latent channel for each of bottleneck.levels, which model.latent_channels "
                "cannot change in model.init_from: leave it out"
            )

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> FSQBottleneck:  # noqa: ARG002
        """The grid takes the codebook's place."""
        return FSQBottleneck(autoencoder.quantize.embedding, levels=self.levels)

    def stock_arguments(self, latent_channels: int) -> dict[str, object]:
        """A codebook for the grid. Raises ModelError unless each latent channel has a number of levels."""
        if len(self.levels) != latent_channels:
            raise ModelError(
                f"bottleneck.levels {' '.join(map(str, self.levels))} are {len(self.levels)} channels, but the model "
                f"has {latent_channels} latent channels: give model.latent_channels {len(self.levels)}"
            )
        return {"num_vq_embeddings": math.prod(self.levels), "vq_embed_dim": len(self.levels)}
