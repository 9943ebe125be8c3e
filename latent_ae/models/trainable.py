"""The training wrapper: a stock autoencoder and a bottleneck behind one forward."""

from typing import NamedTuple

from torch import Tensor, nn

from latent_ae.models.autoencoder import Autoencoder
from latent_ae.models.bottlenecks import Bottleneck, BottleneckOutput
from latent_ae.models.transform import LatentTransform


class AutoencoderOutput(NamedTuple):
    """What encoder, bottleneck and decoder make of a batch."""

    reconstruction: Tensor
    """[B, C, H, W], not clamped"""
    bottleneck: BottleneckOutput


class TrainableAutoencoder(nn.Module):
    """One forward from pixels to reconstruction, so that whatever wraps the module (DDP) sees all of it.

    pixels [B,C,H,W] -> encoder -> quant_conv -> bottleneck -> post_quant_conv -> decoder -> reconstruction [B,C,H,W]
                                                     ^     |
                                     noise of samples      + latent noise, transform (both off by default)

    It calls the stock model's own submodules; `autoencoder` remains what is saved and exported.
    """

    def __init__(self, autoencoder: Autoencoder, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.bottleneck = bottleneck

    def recompute_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them (gradient checkpointing)."""
        # VQModel does not say so, but it is made of the same encoder and decoder.
        self.autoencoder._supports_gradient_checkpointing = True
        self.autoencoder.enable_gradient_checkpointing()

    def compile_blocks(self, *, one_size: bool) -> None:
        """torch.compile the blocks of encoder and decoder, each by itself, at their first forward; no name changes.

        Where images have `one_size`, blocks are compiled for it: torch would otherwise take the levels of the model, of
        a size each, for inputs of one block that change, and compile for any size, which takes twice as long.

        Not the whole: the adaptive adversarial weight asks for gradients at the decoder's last layer, twice, before the
        backward. A compiled backward runs as a whole and once. Here those gradients stay in the layers after the last
        block, which are not compiled. And recomputed activations are recomputed around a compiled block, which DDP
        could not cut into buckets with the recomputation inside.
        """
        sides = (self.autoencoder.encoder.down_blocks, self.autoencoder.decoder.up_blocks)
        middles = (self.autoencoder.encoder.mid_block, self.autoencoder.decoder.mid_block)
        for block in (*sides[0], *sides[1], *middles):
            # The memory layout is the run's own choice (train.channels_last). Where inductor chose another, torch 2.13
            # lost the whole gradient of a decoder's block on a CPU: its input's came out as zeros.
            block.compile(dynamic=False if one_size else None, options={"layout_optimization": False})

    def forward(
        self,
        pixels: Tensor,
        noise: Tensor,
        *,
        latent_noise: Tensor | None = None,
        transform: LatentTransform | None = None,
    ) -> AutoencoderOutput:
        """Pixels [B,C,H,W] in [-1, 1] and the bottleneck's noise [B,...] => reconstruction and bottleneck output.

        `latent_noise` [B,c,h,w] is added to the latents that the decoder gets. With a `transform` these are
        transformed, and the reconstruction is one of the transformed pixels.
        """
        autoencoder = self.autoencoder
        h = autoencoder.encoder(pixels)
        if (quant_conv := getattr(autoencoder, "quant_conv", None)) is not None:
            h = quant_conv(h)
        bottleneck: BottleneckOutput = self.bottleneck(h, noise)
        z = bottleneck.latents
        if latent_noise is not None:
            z = z + latent_noise
        if transform is not None:
            z = transform.of_latents(z)
        if (post_quant_conv := getattr(autoencoder, "post_quant_conv", None)) is not None:
            z = post_quant_conv(z)
        return AutoencoderOutput(autoencoder.decoder(z), bottleneck)
