"""The posterior against numbers worked out by hand and diffusers."""

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from latent_ae.models.posterior import LOGVAR_RANGE, kl_nats, sample_posterior, split_moments


def test_kl_by_hand() -> None:
    """Mean 1, variance 4: (1 + 4 - 1 - ln 4) / 2 = 2 - ln 2."""
    assert float(kl_nats(torch.tensor(1.0), torch.tensor(4.0).log())) == pytest.approx(2 - math.log(2))
    assert float(kl_nats(torch.tensor(0.0), torch.tensor(0.0))) == 0


def test_kl_and_its_clamp_are_diffusers() -> None:
    generator = torch.Generator().manual_seed(2)
    moments = torch.randn(3, 4, 5, 5, generator=generator) * torch.tensor([3.0, 3.0, 40.0, 40.0])[:, None, None]
    mean, logvar = moments.chunk(2, dim=1)
    assert logvar.min() < -30
    assert logvar.max() > 20
    torch.testing.assert_close(kl_nats(mean, logvar).sum((1, 2, 3)), DiagonalGaussianDistribution(moments).kl())


def test_a_sample_and_its_clamp_are_diffusers() -> None:
    """Stock diffusers draws its noise on the moments' device with a generator that is handed over."""
    generator = torch.Generator().manual_seed(2)
    moments = torch.randn(3, 4, 5, 5, generator=generator) * torch.tensor([3.0, 3.0, 40.0, 40.0])[:, None, None]
    noise = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(7))
    stock = DiagonalGaussianDistribution(moments).sample(torch.Generator().manual_seed(7))
    torch.testing.assert_close(sample_posterior(*moments.chunk(2, dim=1), noise), stock, rtol=0, atol=0)


def test_only_the_lowest_log_variance_everywhere_is_no_posterior() -> None:
    moments = torch.cat([torch.ones(2, 1, 3, 3), torch.full((2, 1, 3, 3), LOGVAR_RANGE[0])], dim=1)
    assert split_moments(moments)[1] is None
    moments[1, 1, 2, 2] += 1
    mean, logvar = split_moments(moments)
    assert logvar is not None
    assert float(logvar.max()) == LOGVAR_RANGE[0] + 1
    assert bool((mean == 1).all())
