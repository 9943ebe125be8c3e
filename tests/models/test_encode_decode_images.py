"""Any size in, exactly that size out; what the stock model does where nothing has to be padded."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.inference import decode, encode, reconstruct
from latent_ae.models import build_autoencoder


def build(channels: int) -> AutoencoderKL:
    config = ModelConfig(preset="tiny", image_channels=channels, block_out_channels=(4, 4, 8))  # a factor of 4
    return build_autoencoder(config, seed=0, resolution=16).eval()


@pytest.fixture(scope="module")
def grey() -> AutoencoderKL:
    return build(1)


@pytest.fixture(scope="module")
def color() -> AutoencoderKL:
    return build(3)


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def stock(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        return model.decode(model.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)


SIZES = [(16, 16), (15, 16), (16, 13), (5, 7), (1, 1), (3, 33)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_reconstruction_has_exactly_the_size_of_its_image(
    grey: AutoencoderKL, color: AutoencoderKL, channels: int, height: int, width: int
) -> None:
    model, pixels = (grey if channels == 1 else color), noise(height, width, channels)
    assert reconstruct(model, pixels).shape == pixels.shape
    assert encode(model, pixels).shape == (2, 2, -(-height // 4), -(-width // 4))


def test_where_the_size_fits_it_is_the_stock_model(color: AutoencoderKL) -> None:
    pixels = noise(16, 24)
    assert torch.equal(reconstruct(color, pixels), stock(color, pixels))
    assert torch.equal(encode(color, pixels), color.encode(pixels).latent_dist.mode())


def test_other_sizes_repeat_the_last_row_and_column(color: AutoencoderKL) -> None:
    pixels = noise(14, 17)
    padded = torch.from_numpy(np.pad(pixels.numpy(), ((0, 0), (0, 0), (0, 2), (0, 3)), mode="edge"))
    assert torch.equal(reconstruct(color, pixels), stock(color, padded)[..., :14, :17])


def test_what_is_decoded_lies_in_the_range_of_pixels(color: AutoencoderKL) -> None:
    latents = 100 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        unclamped = color.decode(latents).sample * 100
    pixels = decode(color, latents)
    assert unclamped.abs().max() > 1
    assert pixels.abs().max() <= 1
    assert not pixels.requires_grad
