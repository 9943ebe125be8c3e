"""The mixture of Gaussians against scikit-learn's, and as a folder."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.models.learned_prior import DrawOptions, LearnedPrior
from latent_ae.models.mixture_prior import GaussianMixturePrior
from latent_ae.models.prior_loading import load_prior
from latent_ae.priors import mixture
from latent_ae.priors.mixture import mixture_of
from latent_ae.randomness import torch_generator

SHAPE = (2, 2, 2)


def latents(count: int = 600) -> Tensor:
    """Of two clusters, correlated within each, one third and two thirds of them."""
    generator = torch_generator(0, "test")
    z = torch.randn(count, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    return (z + 12 * (torch.arange(count) % 3 > 0)[:, None]).unflatten(1, SHAPE)


def by_sklearn(components: int) -> tuple[GaussianMixture, np.ndarray]:
    """Fitted to the latents in their own coordinates, in which an added variance is the same as in rotated ones."""
    z = latents().flatten(1).double().numpy()
    floor = mixture._SHARE_OF_VARIANCE * z.var(0).mean()
    return GaussianMixture(components, reg_covar=floor, random_state=np.random.RandomState(0)).fit(z), z


@pytest.mark.parametrize("components", [1, 2])
def test_its_density_is_that_of_scikit_learn(components: int) -> None:
    prior = mixture_of(latents(), components=components, identity="e", seed=0)
    model, z = by_sklearn(components)
    torch.testing.assert_close(
        prior.log_prob(latents()), torch.from_numpy(model.score_samples(z)), rtol=1e-4, atol=1e-3
    )


def test_draws_have_the_weights_the_mean_and_the_covariance() -> None:
    prior = mixture_of(latents(), components=2, identity="e", seed=0)
    drawn = prior.drawn(4000, seed=1, options=DrawOptions()).flatten(1)
    seen = latents().flatten(1)
    scale = seen.var(0).mean()
    assert float((drawn.mean(0) - seen.mean(0)).abs().max()) < 0.1 * math.sqrt(scale)
    assert float((drawn.T.cov() - seen.T.cov()).abs().max()) < 0.1 * scale
    assert abs(float((drawn.mean(1) > seen.mean()).float().mean()) - 2 / 3) < 0.03
    model, _ = by_sklearn(2)
    expected = float(model.score(drawn.double().numpy()))
    own = float(model.score(seen.double().numpy()))  # above by what 88 parameters gain on 600 latents
    assert abs(expected - own) < 0.4


def test_a_draw_follows_from_the_seed_and_its_place_and_a_temperature_shrinks_it() -> None:
    prior = mixture_of(latents(), components=2, identity="e", seed=0)
    many, few = (prior.drawn(count, seed=3, options=DrawOptions()) for count in (5, 2))
    assert torch.equal(many[:2], few)
    assert not torch.equal(prior.drawn(2, seed=4, options=DrawOptions()), few)
    centres = prior.drawn(20, seed=3, options=DrawOptions(temperature=0))
    assert len(centres.unique(dim=0)) == 2
    with pytest.raises(UserError, match="top-k 3 has no effect on a mixture of Gaussians"):
        prior.drawn(1, seed=0, options=DrawOptions(top_k=3))


def test_of_large_latents_the_rest_beside_the_main_directions_is_even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilistic PCA with one component: N(mean, C), C of the R largest eigenvalues and the mean of the others."""
    monkeypatch.setattr(mixture, "MOST_DIRECTIONS", 3)
    monkeypatch.setattr(mixture, "_SHARE_OF_VARIANCE", 0.0)
    prior = mixture_of(latents(), components=1, identity="e", seed=0)
    assert prior.config["directions"] == 3
    z = latents().flatten(1).double()
    values, basis = torch.linalg.eigh(z.T.cov(correction=0))
    values[:5] = values[:5].mean()
    expected = torch.distributions.MultivariateNormal(z.mean(0), basis @ values.diag() @ basis.T)
    torch.testing.assert_close(prior.log_prob(latents()), expected.log_prob(z), rtol=1e-4, atol=1e-3)
    drawn = prior.drawn(4000, seed=0, options=DrawOptions()).flatten(1).double()
    assert float((drawn.T.cov() - expected.covariance_matrix).abs().max()) < 0.1 * z.var(0).mean()


def test_it_comes_back_from_its_folder(tmp_path: Path) -> None:
    prior = mixture_of(latents(), components=2, identity="of the encoder", seed=0)
    prior.save_pretrained(tmp_path)
    loaded = load_prior(str(tmp_path))
    assert isinstance(loaded, GaussianMixturePrior)
    assert isinstance(loaded, LearnedPrior)
    assert (loaded.encoder_identity, loaded.side, loaded.latent_shape) == ("of the encoder", 2, SHAPE)
    assert torch.equal(loaded.log_prob(latents()), prior.log_prob(latents()))
