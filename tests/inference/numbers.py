"""A model that loses nothing but float32's rounding, of images of any pixel format."""

from typing import Any

import torch
from torch import nn

from latent_ae.config import ModelConfig
from latent_ae.inference import Codec
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import Autoencoder, build_autoencoder


def lossless_model(channels: int) -> Autoencoder:
    """A factor of 2: each latent position holds its 2x2 pixels, with hardly any variance."""
    config = ModelConfig(preset="tiny", image_channels=channels, latent_channels=4 * channels)
    model = build_autoencoder(config, seed=0, resolution=16)
    encoder, decoder = nn.Conv2d(channels, 8 * channels, 2, 2), nn.ConvTranspose2d(4 * channels, channels, 2, 2)
    with torch.no_grad():
        squares = torch.eye(4 * channels).view(4 * channels, channels, 2, 2)
        for weight in (encoder.weight, encoder.bias, decoder.bias):
            weight.zero_()  # type: ignore[union-attr]  # they have biases
        encoder.weight[: 4 * channels] = decoder.weight[:] = squares
        encoder.bias[4 * channels :] = -30  # type: ignore[index]
    model.encoder, model.decoder = encoder, decoder
    model.quant_conv = model.post_quant_conv = None
    return model.eval()


def lossless(form: PixelFormat, **options: Any) -> Codec:
    """The codec of it."""
    return Codec(lossless_model(form.channels), name="lossless", pixel_format=form, precision="fp32", **options)
