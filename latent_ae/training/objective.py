"""What is minimised: the autoencoder and its loss terms behind one forward.

The whole of it is the module that is prepared for distributed training, so that everything that learns (a learned
log-variance too) is synchronised by the one forward.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latent_ae.models.autoencoder import factor_of
from latent_ae.models.trainable import AutoencoderOutput, TrainableAutoencoder
from latent_ae.models.transform import LatentTransform
from latent_ae.training.losses import mean_of_image


class Terms(NamedTuple):
    """Unweighted loss terms of a batch, each the mean over its images, and what else an update needs of it."""

    losses: dict[str, Tensor]
    """reconstruction, perceptual (if used), and the bottleneck's: kl (nats / (C*H*W), after free bits and capacity),
    codebook, commitment, entropy"""
    stats: dict[str, Tensor]
    """what is logged beside them, without gradient: psnr, kl_nats"""
    sums: dict[str, Tensor]
    """`BottleneckOutput.sums`"""
    candidates: Tensor | None
    """`BottleneckOutput.candidates`"""
    reconstruction: Tensor
    """[B, C, H, W] float32, not clamped; in the padding of an image it is the target"""
    target: Tensor
    """[B, C, H, W] what it is compared with: the pixels, transformed if the latents were"""


@dataclass(frozen=True)
class Weights:
    """The weights of the terms at one step."""

    terms: dict[str, float]
    """by the term's name"""
    capacity: float | None = None
    """the KL's target in nats per image"""

    def of(self, term: str) -> float:
        """The weight of a term by its name; 1 for the reconstruction."""
        return 1.0 if term == "reconstruction" else self.terms[term]


class Objective(nn.Module):
    """Pixels in, loss terms out.

    Args:
        model: the autoencoder with its bottleneck.
        reconstruction: a module of `losses.RECONSTRUCTION`.
        perceptual: a `PerceptualDistance`, or None. Its parameters are frozen.
        frozen: modules of the autoencoder that are not to learn in this run.
    """

    def __init__(
        self,
        model: TrainableAutoencoder,
        reconstruction: nn.Module,
        perceptual: nn.Module | None,
        frozen: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.model = model
        self.reconstruction = reconstruction
        self.perceptual = perceptual

    def forward(
        self,
        pixels: Tensor,
        noise: Tensor,
        *,
        capacity: float | None = None,
        latent_noise: Tensor | None = None,
        transform: LatentTransform | None = None,
        valid: Tensor | None = None,
    ) -> Terms:
        """Pixels [B,C,H,W] in [-1, 1], the bottleneck's noise [B,...] and the KL target in nats per image => terms.

        `latent_noise` and `transform` are those of `TrainableAutoencoder.forward`. `valid` [B,2] is height and width
        of the upper left part of each image that is no padding (None: all of it). In the padding the reconstruction is
        replaced by the target, so that no term compares it; means over an image are over its valid part, and so is the
        number of pixel values by which the KL is divided.
        """
        output: AutoencoderOutput = self.model(pixels, noise, latent_noise=latent_noise, transform=transform)
        bottleneck = output.bottleneck
        # The autoencoder may run in half precision; what is summed up is float32.
        with torch.autocast(pixels.device.type, enabled=False):
            reconstruction = output.reconstruction.float()
            target = pixels if transform is None else transform.of_pixels(pixels, factor_of(self.model.autoencoder))
            share = None
            if valid is not None:
                seen = valid_pixels(valid, pixels, transform, factor_of(self.model.autoencoder))
                reconstruction = torch.where(seen, reconstruction, target)
                share = seen.float().mean(dim=(1, 2, 3)).clamp(min=1 / seen[0].numel())
            compared = (reconstruction, target) if share is None else (reconstruction, target, share)
            losses = {"reconstruction": self.reconstruction(*compared).mean()}
            for name, value in bottleneck.losses.items():
                losses[name] = _per_pixel_value(value, capacity, pixels, valid) if name == "kl" else value.mean()
            stats = {name: value.mean() for name, value in bottleneck.stats.items()}
            with torch.no_grad():
                error = mean_of_image((reconstruction.clamp(-1.0, 1.0) - target).square(), share)
                # 4 is the squared data range; the floor stands in for a perfect reconstruction.
                stats["psnr"] = (10.0 * torch.log10(4.0 / error.clamp(min=1e-10))).mean()
        if self.perceptual is not None:
            distance = self.perceptual(reconstruction, target)
            losses["perceptual"] = (distance if share is None else distance / share).mean()
        return Terms(losses, stats, bottleneck.sums, bottleneck.candidates, reconstruction, target)


def weighted_sum(losses: dict[str, Tensor], weights: Weights) -> Tensor:
    """The loss: every term times its weight."""
    return torch.stack([weights.of(name) * value for name, value in losses.items()]).sum()


def valid_pixels(valid: Tensor, pixels: Tensor, transform: LatentTransform | None, factor: int) -> Tensor:
    """Heights and widths [B,2] of the valid parts of pixels [B,C,H,W] => [B,1,H,W] bool, False in the padding.

    With a transform it is that of the transformed pixels, without those into which padding was mixed.
    """
    rows, columns = (torch.arange(side, device=valid.device) for side in pixels.shape[-2:])
    seen = (rows[:, None] < valid[:, :1, None]) & (columns < valid[:, 1:, None])
    if transform is None:
        return seen[:, None]
    return transform.of_pixels(seen[:, None].float(), factor) > 1 - 1e-4


def _per_pixel_value(nats: Tensor, capacity: float | None, pixels: Tensor, valid: Tensor | None) -> Tensor:
    """KL in nats per image [B] => its mean distance to the target, by the number of valid pixel values of an image."""
    shaped = nats if capacity is None else (nats - capacity).abs()
    if valid is None:
        return shaped.mean() / pixels[0].numel()
    return (shaped / (pixels.shape[1] * valid.prod(dim=1))).mean()
