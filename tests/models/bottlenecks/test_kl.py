import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from latent_ae.models.bottlenecks.kl import KLBottleneck, KLLossConfig


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


def test_linear_beta_warm_up() -> None:
    config = KLLossConfig(beta=0.5, beta_schedule="linear", beta_warmup_steps=10)
    assert [config.beta_at(step) for step in (0, 1, 5, 10, 99)] == [0.0, 0.05, 0.25, 0.5, 0.5]
    assert config.beta_at(None) == 0.5


def test_cyclical_beta_rises_for_half_a_cycle_and_stays_for_the_other() -> None:
    config = KLLossConfig(beta=1.0, beta_schedule="cyclical", beta_cycle_steps=8)
    assert [config.beta_at(step) for step in range(9)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.0]


def test_capacity_rises_to_its_target() -> None:
    config = KLLossConfig(beta=1.0, capacity=25.0, capacity_steps=100)
    assert [config.capacity_at(step) for step in (0, 50, 100, 500)] == [0.0, 12.5, 25.0, 25.0]
    assert KLLossConfig(beta=1.0, capacity=25.0).capacity_at(0) == 25.0
    assert KLLossConfig().capacity_at(0) is None


def test_conventions_of_the_published_kl_weight() -> None:
    # LDM's kl-f8 at 256 px: 1e-6 on sums is 1e-6 * 4096 / 196608 = 2.08e-8 on means.
    text = KLLossConfig(beta=1e-6).conventions(3 * 256 * 256, 4 * 32 * 32)
    assert text is not None
    assert "kl_weight 1e-06 in LDM" in text
    assert "5.09e-12 against a mean reconstruction and a summed KL" in text
    assert "2.08e-08 against means of both" in text
