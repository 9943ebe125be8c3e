"""Probabilities of 8-bit levels, and bounds of a likelihood that is known exactly."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import Normal

from latent_ae.evaluation.metrics import likelihood_bounds as likelihood
from latent_ae.evaluation.metrics.likelihood_bounds import (
    image_terms,
    importance_bounds,
    levels_of,
    log_probability,
    log_weights,
)

LEVELS = torch.arange(256, dtype=torch.float64)
STD = 0.25
"""of the linear model: 32 levels, so that a level's mass is its density times its width to 1e-4 a pixel"""


@pytest.mark.parametrize("std", [1e-6, 1e-3, 0.01, 0.3, 2.0, 1e3])
@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.2, 0.0, 1 / 255, 0.5, 1.0, 1.7])
def test_the_levels_sum_to_one(mean: float, std: float) -> None:
    log_p = log_probability(LEVELS, torch.tensor(mean), std)
    assert log_p.dtype == torch.float64
    assert bool((log_p <= 0).all())
    assert float(log_p.logsumexp(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("level", "low", "high"), [(0, -math.inf, -254 / 255), (1, -254 / 255, -252 / 255)])
@pytest.mark.parametrize(("mean", "std"), [(-0.9, 0.05), (0.4, 0.3), (-1.2, 0.02)])
def test_a_level_by_hand(level: int, low: float, high: float, mean: float, std: float) -> None:
    right = mean < high  # where the smaller of the two differences is not one of numbers near 1
    mass = (
        norm.sf(low, mean, std) - norm.sf(high, mean, std)
        if right
        else norm.cdf(high, mean, std) - norm.cdf(low, mean, std)
    )
    for sign, mirrored in ((1, level), (-1, 255 - level)):
        log_p = log_probability(torch.tensor(mirrored), torch.tensor(sign * mean, dtype=torch.float64), std)
        assert float(log_p) == pytest.approx(math.log(mass), rel=1e-9)


@pytest.mark.parametrize("std", [1e-6, 1e-3, 0.05])
@pytest.mark.parametrize("far", [1.0, 2.0, 1e3, 1e10, 3e38])
def test_far_tails_are_finite_and_fall(std: float, far: float) -> None:
    for sign, levels in ((1, LEVELS), (-1, LEVELS.flip(0))):
        log_p = log_probability(levels, torch.tensor(sign * far), std)
        assert bool(log_p.isfinite().all())
        assert bool((log_p.diff() >= 0).all()), "a level nearer to the mean is not less likely"
    away = log_probability(torch.tensor(3), torch.tensor([0.0, 0.5, 1.0, 5.0, far * 10], dtype=torch.float64), std)
    assert bool((away.diff() < 0).all())


def test_the_density_at_a_huge_std_is_that_of_the_middle() -> None:
    log_p = log_probability(torch.tensor(7), torch.tensor(0.5), 1e3)
    assert float(log_p) == pytest.approx(norm.logpdf(7 / 127.5 - 1, 0.5, 1e3) + math.log(2 / 255), abs=1e-7)


class Linear:
    """x = W z + b + s * noise with orthogonal columns W, whose posterior is a diagonal Gaussian."""

    def __init__(self, latents: int = 3, side: int = 4) -> None:
        generator = torch.Generator().manual_seed(3)
        self.side, values = side, side * side
        columns = torch.linalg.qr(torch.randn(values, latents, generator=generator, dtype=torch.float64)).Q
        self.matrix = columns * torch.tensor([0.5, 0.3, 0.1])
        self.offset = 0.1 * torch.randn(values, generator=generator, dtype=torch.float64)
        self.marginal = torch.distributions.MultivariateNormal(
            self.offset, STD**2 * torch.eye(values, dtype=torch.float64) + self.matrix @ self.matrix.T
        )
        self.logvar = -torch.log1p(self.matrix.square().sum(0) / STD**2)

    def mean(self, x: Tensor) -> Tensor:
        return self.logvar.exp() * ((x - self.offset) @ self.matrix) / STD**2

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.matrix.T + self.offset).view(-1, 1, self.side, self.side)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        density = torch.distributions.Normal(z @ self.matrix.T + self.offset, STD)
        return density.log_prob(x).sum(-1)


@pytest.mark.parametrize("draws", [1, 2, 5, 64])
def test_with_the_exact_posterior_every_bound_is_the_likelihood(draws: int) -> None:
    model, generator = Linear(), torch.Generator().manual_seed(1)
    for x in model.marginal.sample((4,)):
        mean = model.mean(x)
        z = mean + torch.exp(0.5 * model.logvar) * torch.randn(draws, 3, generator=generator, dtype=torch.float64)
        bounds = importance_bounds(log_weights(model.log_likelihood(x, z), z, mean, model.logvar))
        assert max(bounds) == draws
        assert list(bounds.values()) == pytest.approx([float(model.marginal.log_prob(x))] * len(bounds), abs=1e-6)


def test_with_a_wrong_posterior_the_bound_rises_to_the_likelihood() -> None:
    model, generator = Linear(), torch.Generator().manual_seed(1)
    images = model.marginal.sample((500,))
    sums: dict[int, float] = dict.fromkeys((1, 2, 4, 8, 16, 32, 64), 0.0)
    for x in images:
        mean, logvar = model.mean(x) + 0.3, model.logvar + 0.4
        z = mean + torch.exp(0.5 * logvar) * torch.randn(64, 3, generator=generator, dtype=torch.float64)
        bounds = importance_bounds(log_weights(model.log_likelihood(x, z), z, mean, logvar))
        assert all(a <= b for a, b in pairwise(bounds.values())), "rises for every image"
        sums = {draws: sums[draws] + bound for draws, bound in bounds.items()}
    exact = float(model.marginal.log_prob(images).mean())
    below = [exact - total / len(images) for total in sums.values()]
    # KL(wrong posterior || posterior), by which the ELBO is less than the likelihood
    gap = 0.5 * float((math.exp(0.4) + 0.09 / model.logvar.exp() - 1 - 0.4).sum())
    assert below[0] == pytest.approx(gap, rel=0.02)
    assert 0 < below[-1] < gap / 20


def linear_terms(model: Linear, levels: Tensor, samples: int, shift: float = 0.0) -> likelihood.ImageTerms:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(samples, 3, 1, 1, generator=generator, dtype=torch.float64)
    mean = model.mean((levels / 127.5 - 1).flatten()) + shift
    return image_terms(
        levels,
        mean.view(3, 1, 1),
        model.logvar.view(3, 1, 1),
        decode=model.decode,
        noise=lambda draw: noise[draw],
        std=STD,
        samples=samples,
    )


def test_terms_of_an_8_bit_image_against_the_exact_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Linear()
    levels = torch.randint(40, 216, (1, 4, 4), generator=torch.Generator().manual_seed(2)).double()
    exact = float(model.marginal.log_prob((levels / 127.5 - 1).flatten())) + 16 * math.log(2 / 255)
    terms = linear_terms(model, levels, 10)
    assert terms.dimensions == 16
    assert list(terms.bounds) == [1, 2, 4, 8, 10]
    assert list(terms.bounds.values()) == pytest.approx([exact] * 5, abs=0.02)
    assert terms.effective_share == pytest.approx(1, abs=1e-4)
    assert linear_terms(model, levels, 400).reconstruction - terms.kl == pytest.approx(exact, abs=0.3)
    monkeypatch.setattr(likelihood, "PIXELS_PER_CALL", 3 * 16)
    calls: list[int] = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z: (calls.append(len(z)), decode(z))[1])
    pieces = linear_terms(model, levels, 10)
    assert calls == [3, 3, 3, 1]
    assert list(pieces.bounds.values()) == pytest.approx(list(terms.bounds.values()), rel=1e-12)


def test_the_effective_share_of_draws() -> None:
    model = Linear()
    levels = torch.full((1, 4, 4), 120.0, dtype=torch.float64)
    far = linear_terms(model, levels, 64, shift=40.0)
    assert 1 / 64 <= far.effective_share < 0.05
    assert linear_terms(model, levels, 1, shift=40.0).effective_share == pytest.approx(1)
    assert far.bounds[64] < linear_terms(model, levels, 64).bounds[64]


class LinearPrior:
    """u from N(0, 1) and z = 0.8 u + 0.6 * noise by value, so that z is N(0, 1), with q(u|z) off by `shift`."""

    def __init__(self, shift: float = 0.0) -> None:
        self._shift = shift

    def log_density(self, z: Tensor, noise: Tensor) -> Tensor:
        posterior = Normal(0.8 * z + self._shift, 0.6)
        u = posterior.mean + posterior.stddev * noise
        log_joint = Normal(0.0, 1.0).log_prob(u) + Normal(0.8 * u, 0.6).log_prob(z)
        return (log_joint - posterior.log_prob(u)).flatten(1).sum(1)


def test_the_known_hierarchy_is_one() -> None:
    """exp(log_density) is N(z; 0, 1) for every noise with the exact q(u|z), and in the mean with a wrong one."""
    generator = torch.Generator().manual_seed(6)
    z = torch.tensor([0.7, -1.1, 0.2], dtype=torch.float64).expand(200_000, 3)
    noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
    exact = Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(LinearPrior().log_density(z, noise), exact, rtol=1e-12, atol=0)
    wrong = LinearPrior(shift=0.3).log_density(z, noise)
    assert float((wrong - exact).exp().mean()) == pytest.approx(1, abs=0.02)  # 8 deviations of the mean
    assert float((wrong - exact).mean()) == pytest.approx(-3 * 0.5 * (0.3 / 0.6) ** 2, abs=0.01)


def hierarchical_terms(levels: Tensor, samples: int, shift: float) -> likelihood.ImageTerms:
    """Of the linear model, its own posterior and a hierarchy above."""
    model, generator, prior = Linear(), torch.Generator().manual_seed(5), LinearPrior(shift)
    noise = torch.randn(2, samples, 3, 1, 1, generator=generator, dtype=torch.float64)
    return image_terms(
        levels,
        model.mean((levels / 127.5 - 1).flatten()).view(3, 1, 1),
        model.logvar.view(3, 1, 1),
        decode=model.decode,
        noise=lambda draw: noise[0, draw],
        std=STD,
        samples=samples,
        log_prior=lambda z, draws: prior.log_density(z, noise[1, draws.start : draws.stop]),
    )


def test_a_hierarchy_that_is_a_normal_distribution_changes_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = torch.full((1, 4, 4), 120.0, dtype=torch.float64)
    plain, above = linear_terms(Linear(), levels, 64), hierarchical_terms(levels, 64, shift=0.0)
    assert above.reconstruction == plain.reconstruction, "the draws are the same"
    assert [*above.bounds.values()] == pytest.approx([*plain.bounds.values()], rel=1e-12)
    assert hierarchical_terms(levels, 4000, shift=0.0).kl == pytest.approx(plain.kl, rel=0.05)
    monkeypatch.setattr(likelihood, "PIXELS_PER_CALL", 5 * 16)
    assert [*hierarchical_terms(levels, 64, shift=0.0).bounds.values()] == pytest.approx([*above.bounds.values()])


def test_with_a_wrong_posterior_above_the_bound_still_rises_to_the_likelihood() -> None:
    model, levels = Linear(), torch.full((1, 4, 4), 120.0, dtype=torch.float64)
    exact = float(model.marginal.log_prob((levels / 127.5 - 1).flatten())) + 16 * math.log(2 / 255)
    terms = hierarchical_terms(levels, 2**12, shift=0.3)
    gap = 3 * 0.5 * (0.3 / 0.6) ** 2  # KL of the two posteriors of u
    assert terms.reconstruction - terms.kl == pytest.approx(exact - gap, abs=0.05)
    assert terms.bounds[1] == pytest.approx(exact - gap, abs=0.05)
    assert terms.bounds[2**12] == pytest.approx(exact, abs=0.05)


def test_what_is_counted_of_a_padded_image() -> None:
    model, levels = Linear(), torch.full((1, 3, 2), 90.0, dtype=torch.float64)
    zero = torch.zeros(3, 1, 1, dtype=torch.float64)
    terms = image_terms(levels, zero, zero, decode=model.decode, noise=lambda _: zero, std=STD, samples=2)
    decoded = model.offset.view(1, 4, 4)[:, :3, :2]
    assert terms.reconstruction == pytest.approx(float(log_probability(levels, decoded, STD).sum()))
    assert (terms.kl, terms.dimensions) == (0, 6)


def test_levels_of_pixels() -> None:
    pixels = (LEVELS.float() / 127.5 - 1).view(1, 16, 16)
    assert torch.equal(levels_of(pixels).flatten(), LEVELS)
    for wrong in (pixels + 0.001, pixels * 1.0 + 2 / 255, torch.full((1, 2, 2), math.nan)):
        with pytest.raises(ValueError, match="levels of 8-bit images"):
            levels_of(wrong)
