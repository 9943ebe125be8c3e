import inspect
import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from latent_ae.models.bottlenecks import BOTTLENECKS, BottleneckOutput, KLBottleneck


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_the_protocol(name: str) -> None:
    bottleneck = BOTTLENECKS[name]()
    assert list(inspect.signature(bottleneck.forward).parameters) == ["h", "noise"] or name == "kl"
    output = bottleneck(torch.randn(3, 4, 5, 6), torch.randn(3, 2, 5, 6))
    assert isinstance(output, BottleneckOutput)
    assert output.latents.shape == (3, 2, 5, 6)
    assert all(value.shape == (3,) for value in (*output.losses.values(), *output.stats.values()))
    assert all(not value.requires_grad for value in output.stats.values())


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
