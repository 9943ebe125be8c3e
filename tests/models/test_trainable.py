"""The training wrapper is the stock model's own forward, with the bottleneck in between."""

import pytest
import torch
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.models.transform import LatentTransform

PIXELS = torch.linspace(-1, 1, 2 * 16 * 16).reshape(2, 1, 16, 16)


def wrapped(kind: str) -> tuple[TrainableAutoencoder, Tensor]:
    codes = BOTTLENECKS[kind](**({} if kind == "kl" else {"codebook_size": 8}))
    autoencoder = build_autoencoder(ModelConfig(preset="tiny"), codes, seed=0, resolution=16)
    bottleneck = codes.build(autoencoder, codes.loss())
    noise = torch.zeros(2, *bottleneck.noise_shape((2, 8, 8)))
    return TrainableAutoencoder(autoencoder, bottleneck), noise


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_without_noise_it_is_the_stock_model(kind: str) -> None:
    model, noise = wrapped(kind)
    with torch.no_grad():
        stock = model.autoencoder(PIXELS).sample  # the posterior's mode, or the nearest codes
        ours = model(PIXELS, noise).reconstruction
    torch.testing.assert_close(ours, stock)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_recomputed_activations_change_no_gradient(kind: str) -> None:
    gradients = []
    for recompute in (False, True):
        model, noise = wrapped(kind)
        model.train()
        if recompute:
            model.recompute_activations()
            assert model.autoencoder.decoder.gradient_checkpointing
        model(PIXELS, noise).reconstruction.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert gradients[0]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_latents_are_transformed_and_noised_before_the_decoder() -> None:
    model, noise = wrapped("kl")
    added = torch.full((2, 2, 8, 8), 0.5)
    transform = LatentTransform(scale=0.5, turns=1)
    with torch.no_grad():
        latents = model.autoencoder.encode(PIXELS).latent_dist.mode()
        ours = model(PIXELS, noise, latent_noise=added, transform=transform).reconstruction
        stock = model.autoencoder.decode(transform.of_latents(latents + added)).sample
    assert ours.shape == (2, 1, 8, 8)
    torch.testing.assert_close(ours, stock)
