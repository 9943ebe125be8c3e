"""The hierarchical prior against densities that are known, and as a folder."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import Normal

from latent_ae.models.errors import ModelError
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.learned_prior import check_prior
from latent_ae.models.prior_loading import load_prior
from latent_ae.randomness import torch_generator
from tests.models.stock_models import stock

MEAN, STD = [0.5, -1.0], [2.0, 0.25]


def made(side: int = 3, *, channels: int = 2, moved: float = 0.05, levels_per_grid: int = 2) -> HierarchicalPrior:
    """A small prior; `moved` away from its start, where every factor is N(0, 1)."""
    torch.manual_seed(0)
    prior = HierarchicalPrior(
        channels=channels,
        side=side,
        width=8,
        level_channels=3,
        levels_per_grid=levels_per_grid,
        encoder_identity="of the encoder",
    )
    prior.set_statistics(MEAN[:channels], STD[:channels])
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(moved * torch.randn_like(parameter))
    return prior.eval()


def noise(*shape: int, place: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", place))


def some_latents(prior: HierarchicalPrior, count: int) -> Tensor:
    return noise(count, *prior.latent_shape, place=1) * prior.std + prior.mean


@pytest.mark.parametrize(("side", "grids"), [(1, [1]), (4, [1, 2, 4]), (5, [1, 2, 3, 5]), (16, [1, 2, 4, 8, 16])])
def test_grids_halve_rounded_up(side: int, grids: list[int]) -> None:
    prior = made(side, moved=0.0)
    assert prior.grids == grids
    assert prior.level_shapes == [(3, grid, grid) for grid in grids for _ in range(2)]
    assert prior.grid_ends == [6 * sum(grid**2 for grid in grids[:count]) for count in range(len(grids) + 1)]
    assert prior.noise_values == prior.grid_ends[-1]
    assert prior.draw_values == prior.noise_values + 2 * side**2


def test_at_the_start_it_is_a_normal_distribution_of_the_channels() -> None:
    prior = made(moved=0.0)
    latents = some_latents(prior, 4)
    terms = prior(latents, noise(4, prior.noise_values))
    expected = Normal(prior.mean, prior.std).log_prob(latents).sum((1, 2, 3))
    torch.testing.assert_close(-terms.reconstruction, expected)
    assert not terms.kl.any()
    assert not terms.log_ratio.any()
    density = prior.log_density(latents.double(), noise(4, prior.noise_values).double())
    torch.testing.assert_close(density.float(), expected)


def test_the_kl_is_the_mean_of_the_log_ratio_over_draws() -> None:
    prior, draws = made(), 20_000
    latents = some_latents(prior, 1).expand(draws, -1, -1, -1)
    with torch.no_grad():
        terms = prior(latents, noise(draws, prior.noise_values))
    drawn, formula = -terms.log_ratio.double(), terms.kl.double()
    # Beyond the first level both depend on what was drawn above; their means agree all the same.
    error = (drawn - formula).std(0) / math.sqrt(draws)
    assert bool(((drawn.mean(0) - formula.mean(0)).abs() < 5 * error + 1e-6).all())
    assert bool((formula.mean(0) > 1e-3).all()), "levels that say nothing would show nothing"


def test_its_density_is_one_in_all_and_that_of_its_draws() -> None:
    """By numbers, of a z with one value: exp(log_density) is unbiased, scaled as z is, and belongs to `draw`."""
    prior, draws = made(1, channels=1, moved=0.15), 1_000
    axis = torch.linspace(-20, 20, 201, dtype=torch.float64)
    latents = axis.repeat_interleave(draws)[:, None, None, None]
    estimates = prior.log_density(latents, noise(len(latents), prior.noise_values).double())
    density = estimates.exp().view(len(axis), draws).mean(1)
    step = float(axis[1] - axis[0])
    assert float(density.sum()) * step == pytest.approx(1, abs=0.01)
    mean = float((density * axis).sum()) * step
    variance = float((density * (axis - mean) ** 2).sum()) * step
    drawn = prior.draw(noise(50_000, prior.draw_values)).double()
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.05)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.03)
    assert abs(mean - MEAN[0]) + abs(variance - STD[0] ** 2) > 0.5, "away from the start, where all this is trivial"


def test_its_mean_over_draws_bounds_the_log_density_from_below() -> None:
    prior = made()
    latents = some_latents(prior, 1).expand(4000, -1, -1, -1).double()
    estimates = prior.log_density(latents, noise(4000, prior.noise_values).double())
    assert float(estimates.mean()) < float(estimates.logsumexp(0)) - math.log(4000)


def test_draws_whose_noise_begins_alike_share_the_upper_levels() -> None:
    prior = made()
    numbers, other = noise(1, prior.draw_values), noise(1, prior.draw_values, place=2)
    decided: list[Tensor] = []
    for level in prior.levels:
        level.effect.register_forward_hook(lambda _, inputs, __: decided.append(inputs[0]))
    assert torch.equal(prior.draw(numbers), prior.draw(numbers))
    whole = decided[: len(prior.levels)]
    for grids, end in enumerate(prior.grid_ends):
        decided.clear()
        prior.draw(torch.cat([numbers[:, :end], other[:, end:]], 1))
        same = [torch.equal(one, first) for one, first in zip(decided, whole, strict=True)]
        assert same == [place < 2 * grids for place in range(len(prior.levels))]


def test_every_weight_has_a_gradient() -> None:
    prior = made().train()
    terms = prior(some_latents(prior, 4), noise(4, prior.noise_values))
    (terms.reconstruction + terms.kl.sum(1)).mean().backward()
    idle = [name for name, parameter in prior.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert idle == []


def test_each_image_is_by_itself() -> None:
    prior = made()
    latents, numbers = some_latents(prior, 3), noise(3, prior.noise_values)
    whole = prior.log_density(latents, numbers)
    one = torch.cat([prior.log_density(latents[[i]], numbers[[i]]) for i in range(3)])
    torch.testing.assert_close(whole, one, rtol=1e-5, atol=1e-4)


def test_it_comes_back_from_its_folder(tmp_path: Path) -> None:
    prior = made()
    prior.save_pretrained(tmp_path)
    stock = HierarchicalPrior.from_pretrained(tmp_path)
    for loaded in (load_prior(str(tmp_path)), stock.eval()):
        assert loaded.encoder_identity == "of the encoder"
        state = loaded.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in prior.state_dict().items())
        numbers = noise(2, prior.draw_values)
        torch.testing.assert_close(loaded.draw(numbers), prior.draw(numbers))
    assert not load_prior(str(tmp_path)).training


def test_what_is_no_prior_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no config.json; train/train_prior.py makes one"):
        load_prior(str(tmp_path))
    stock("one level").save_pretrained(tmp_path / "kl")
    with pytest.raises(ModelError, match="holds a model of class AutoencoderKL, expected a prior: HierarchicalPrior"):
        load_prior(str(tmp_path / "kl"))
    made().save_pretrained(tmp_path / "prior")
    weights = tmp_path / "prior" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if name != "std"}, weights, {"format": "pt"})
    with pytest.raises(ModelError, match=r"prior lacks 1 of its weights, the first of them std"):
        load_prior(str(tmp_path / "prior"))
    weights.write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"^cannot load the HierarchicalPrior of [^\n]*$"):
        load_prior(str(tmp_path / "prior"))


def test_the_prior_of_other_latents_is_refused_with_both_identities() -> None:
    check_prior(made(), "of the encoder", "p")
    with pytest.raises(ModelError, match=r"the prior p is of the .* of the encoder, and .* is abc"):
        check_prior(made(), "abc", "p")


def test_wrong_shapes_and_sizes_say_what_was_expected() -> None:
    prior = made()
    values = prior.noise_values
    with pytest.raises(ValueError, match=r"latents must be \[B, 2, 3, 3\], got \[1, 2, 4, 4\]"):
        prior(torch.zeros(1, 2, 4, 4), noise(1, values))
    with pytest.raises(
        ValueError, match=rf"noise must be \[2, {prior.noise_values}\], got \[1, {prior.noise_values}\]"
    ):
        prior(torch.zeros(2, 2, 3, 3), noise(1, prior.noise_values))
    with pytest.raises(ValueError, match=rf"noise must be \[N, {prior.draw_values}\], got \[1, 1\]"):
        prior.draw(noise(1, 1))
    with pytest.raises(ModelError, match=r"channels \[1\] of the latents are the same everywhere"):
        prior.set_statistics([0.0, 0.0], [1.0, 0.0])
    with pytest.raises(ModelError, match=r"needs channels, side, .* of 1 or more, got 2, 0, 64, 8, 1"):
        HierarchicalPrior(channels=2, side=0)
