"""The training wrapper: a stock autoencoder and a bottleneck behind one forward."""

from typing import NamedTuple

from diffusers import AutoencoderKL
from torch import Tensor, nn

from latent_ae.models.bottlenecks import BottleneckOutput


class AutoencoderOutput(NamedTuple):
    """A batch after its way through encoder, bottleneck and decoder."""

    reconstruction: Tensor
    """[B, C, H, W], not clamped"""
    bottleneck: BottleneckOutput


class TrainableAutoencoder(nn.Module):
    """One forward from pixels to reconstruction, so that whatever wraps the module (DDP, compile) sees all of it.

    pixels [B,C,H,W] -> encoder -> quant_conv -> bottleneck -> post_quant_conv -> decoder -> reconstruction [B,C,H,W]
                                                     ^
                                             noise [B,c,h,w]

    It calls the stock model's own submodules; `autoencoder` remains what is saved and exported.
    """

    def __init__(self, autoencoder: AutoencoderKL, bottleneck: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.bottleneck = bottleneck

    def forward(self, pixels: Tensor, noise: Tensor) -> AutoencoderOutput:
        """Pixels [B,C,H,W] in [-1, 1] and posterior noise [B,c,h,w] => reconstruction and bottleneck output."""
        autoencoder = self.autoencoder
        h = autoencoder.encoder(pixels)
        if autoencoder.quant_conv is not None:
            h = autoencoder.quant_conv(h)
        bottleneck = self.bottleneck(h, noise)
        z = bottleneck.latents
        if autoencoder.post_quant_conv is not None:
            z = autoencoder.post_quant_conv(z)
        return AutoencoderOutput(autoencoder.decoder(z), bottleneck)
