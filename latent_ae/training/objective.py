"""What is minimised: the autoencoder and its loss terms behind one forward.

The whole of it is the module that is prepared for distributed training, so that everything that learns (a learned
log-variance too) is synchronised by the one forward.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from latent_ae.models.trainable import AutoencoderOutput, TrainableAutoencoder


class Terms(NamedTuple):
    """Unweighted loss terms of a batch, each the mean over its images."""

    losses: dict[str, Tensor]
    """reconstruction, perceptual (if used), kl (nats / (C*H*W), after free bits and capacity)"""
    stats: dict[str, Tensor]
    """what is logged beside them, without gradient: kl_nats, psnr"""


@dataclass(frozen=True)
class Weights:
    """The weights of the terms at one step."""

    perceptual: float
    beta: float
    capacity: float | None = None
    """nats per image"""

    def of(self, term: str) -> float:
        """The weight of a term by its name."""
        return {"reconstruction": 1.0, "perceptual": self.perceptual, "kl": self.beta}[term]


class Objective(nn.Module):
    """Pixels in, loss terms out.

    Args:
        model: the autoencoder with its bottleneck (or torch.compile's wrapping of it).
        reconstruction: a module of `losses.RECONSTRUCTION`.
        perceptual: a `PerceptualDistance`, or None. Its parameters are frozen.
    """

    def __init__(self, model: TrainableAutoencoder, reconstruction: nn.Module, perceptual: nn.Module | None) -> None:
        super().__init__()
        self.model = model
        self.reconstruction = reconstruction
        self.perceptual = perceptual

    def forward(self, pixels: Tensor, noise: Tensor, capacity: float | None = None) -> Terms:
        """Pixels [B,C,H,W] in [-1, 1], noise [B,c,h,w] and the KL target in nats per image => terms."""
        output: AutoencoderOutput = self.model(pixels, noise)
        # The autoencoder may run in half precision; what is summed up is float32.
        with torch.autocast(pixels.device.type, enabled=False):
            reconstruction = output.reconstruction.float()
            losses = {"reconstruction": self.reconstruction(reconstruction, pixels).mean()}
            for name, value in output.bottleneck.losses.items():
                shaped = value if capacity is None else (value - capacity).abs()
                losses[name] = shaped.mean() / pixels[0].numel()
            stats = {name: value.mean() for name, value in output.bottleneck.stats.items()}
            with torch.no_grad():
                error = (reconstruction.clamp(-1.0, 1.0) - pixels).square().mean(dim=(1, 2, 3))
                # 4 is the squared data range; the floor stands in for a perfect reconstruction.
                stats["psnr"] = (10.0 * torch.log10(4.0 / error.clamp(min=1e-10))).mean()
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(reconstruction, pixels).mean()
        return Terms(losses, stats)


def weighted_sum(losses: dict[str, Tensor], weights: Weights) -> Tensor:
    """The loss: every term times its weight."""
    return torch.stack([weights.of(name) * value for name, value in losses.items()]).sum()
