import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from latent_ae.models.bottlenecks import KLBottleneck


def test_kl_by_hand() -> None:
    # One unit with mean 1 and variance e: (1 + e - 1 - 1) / 2 = (e - 1) / 2 nats.
    moments = torch.tensor([1.0, 1.0]).reshape(1, 2, 1, 1)
    output = KLBottleneck()(moments, torch.full((1, 1, 1, 1), 2.0))
    assert output.losses["kl"].item() == pytest.approx((math.e - 1) / 2)
    assert output.latents.item() == pytest.approx(1 + 2 * math.exp(0.5))


def test_kl_and_sample_agree_with_diffusers() -> None:
    moments = torch.randn(4, 6, 3, 3) * 3
    ours = KLBottleneck()(moments, torch.zeros(4, 3, 3, 3))
    stock = DiagonalGaussianDistribution(moments)
    torch.testing.assert_close(ours.losses["kl"], stock.kl())
    assert torch.equal(ours.latents, stock.mode())


def test_free_bits_are_a_floor_per_channel_and_position() -> None:
    # Unit KLs: 0 (mean 0) and 2 (mean 2), log-variance 0.
    moments = torch.tensor([[0.0, 2.0], [0.0, 0.0]]).reshape(1, 2, 1, 2).requires_grad_()
    output = KLBottleneck(free_bits=0.5)(moments, torch.zeros(1, 1, 1, 2))
    assert output.losses["kl"].item() == pytest.approx(2.5)
    assert output.stats["kl_nats"].item() == pytest.approx(2.0)
    (gradient,) = torch.autograd.grad(output.losses["kl"].sum(), moments)
    assert gradient[0, 0, 0].tolist() == [0.0, 2.0]  # nothing below the floor, d(mean^2 / 2) above it
