"""No bottleneck: a plain autoencoder, in the shape of an AutoencoderKL."""

from typing import Literal

import torch
from torch import Tensor, nn

from latent_ae.config import LossConfig
from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks.protocol import Bottleneck, BottleneckConfig, BottleneckOutput
from latent_ae.models.posterior import LOGVAR_RANGE


class IdentityBottleneck(Bottleneck):
    """Takes the mean and leaves out the log-variance: moments [B,2c,h,w] => latents [B,c,h,w], at no cost."""

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:  # noqa: ARG002
        """Moments h [B,2c,h,w] => latents."""
        latents = h.float().chunk(2, dim=1)[0]
        return BottleneckOutput(latents, losses={}, stats={}, sums={})

    @torch.no_grad()
    def fold(self, autoencoder: nn.Module) -> None:
        """Give the stock model's posterior the smallest variance it has, so that its mode and sample are the latents.

        exp(-30 / 2) = 3e-7 is the standard deviation that remains.
        """
        last = getattr(autoencoder, "quant_conv", None)
        if last is None:
            last = autoencoder.get_submodule("encoder.conv_out")
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        channels = last.out_channels // 2
        last.weight[channels:] = 0.0
        last.bias[channels:] = LOGVAR_RANGE[0]


class IdentityConfig(BottleneckConfig):
    """identity: a plain autoencoder."""

    kind: Literal["identity"] = "identity"

    title = "A plain autoencoder (`diffusers.AutoencoderKL` with a log-variance of -30: its mode is its latent)"

    def build(self, autoencoder: Autoencoder, loss: LossConfig) -> IdentityBottleneck:  # noqa: ARG002
        """It needs nothing."""
        return IdentityBottleneck()
