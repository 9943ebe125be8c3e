"""No bottleneck: a plain autoencoder, in the shape of an AutoencoderKL."""

import torch
from torch import Tensor, nn

from latent_ae.models.bottlenecks.kl import LOGVAR_RANGE
from latent_ae.models.bottlenecks.protocol import Bottleneck, BottleneckOutput


class IdentityBottleneck(Bottleneck):
    """Takes the mean and leaves out the log-variance: moments [B,2c,h,w] => latents [B,c,h,w], at no cost.

    Args:
        latent_noise: standard deviation of the noise that is added to the latents in training; 0 is off.
    """

    def __init__(self, latent_noise: float = 0.0) -> None:
        super().__init__()
        self.latent_noise = latent_noise

    def noise_shape(self, latent_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """One number a latent value, where noise is added."""
        return latent_shape if self.latent_noise else (0,)

    def forward(self, h: Tensor, noise: Tensor) -> BottleneckOutput:
        """Moments h [B,2c,h,w] and noise [B,c,h,w] (or [B,0]) => latents."""
        latents = h.float().chunk(2, dim=1)[0]
        if self.latent_noise and self.training:
            latents = latents + self.latent_noise * noise
        return BottleneckOutput(latents=latents, codes=None, losses={}, stats={}, sums={}, candidates=None)

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
