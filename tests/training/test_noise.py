"""What an update draws belongs to its samples, however they are shared out."""

from dataclasses import replace

import pytest
import torch

from latent_ae.models.transform import transform_at
from latent_ae.randomness import derived_seed, sample_noise
from latent_ae.training.noise import Draws

DRAWS = Draws(
    seed=5,
    latent_channels=3,
    factor=4,
    noise_shape=lambda latent_shape: (7, *latent_shape[1:]),
    latent_noise=0.5,
    equivariance_share=0.5,
)
SIZE = (8, 1, 16, 24)
CPU = torch.device("cpu")


def test_shapes_follow_from_the_images_size() -> None:
    assert DRAWS.latent_shape(SIZE) == (3, 4, 6)
    assert DRAWS.noise([0, 1], SIZE).shape == (2, 7, 4, 6)
    noise = DRAWS.on_latents([0, 1], SIZE, CPU)
    assert noise is not None
    assert noise.shape == (2, 3, 4, 6)


@pytest.mark.parametrize("split", [(4, 4), (1, 5, 2)])
def test_noise_does_not_depend_on_how_the_batch_is_split(split: tuple[int, ...]) -> None:
    numbers = list(range(40, 48))
    parts = [part.tolist() for part in torch.tensor(numbers).split(split)]
    assert torch.equal(torch.cat([DRAWS.noise(part, SIZE) for part in parts]), DRAWS.noise(numbers, SIZE))
    on_latents = [DRAWS.on_latents(part, SIZE, CPU) for part in parts]
    whole = DRAWS.on_latents(numbers, SIZE, CPU)
    assert whole is not None
    assert torch.equal(torch.cat([part for part in on_latents if part is not None]), whole)


def test_latent_noise_is_a_stream_of_its_own_with_its_standard_deviation() -> None:
    draws = replace(DRAWS, noise_shape=lambda latent_shape: latent_shape, latent_noise=0.25)
    noise = draws.on_latents(range(200), SIZE, CPU)
    assert noise is not None
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    posterior = draws.noise(range(200), SIZE)
    correlation = torch.corrcoef(torch.stack([noise.flatten(), posterior.flatten()]))[0, 1]
    assert abs(correlation.item()) < 0.03
    assert torch.equal(posterior, sample_noise(5, 0, 200, (3, 4, 6)))


def test_without_latent_noise_there_is_none() -> None:
    assert replace(DRAWS, latent_noise=0.0).on_latents([0], SIZE, CPU) is None


def test_transforms_are_one_an_update() -> None:
    assert [DRAWS.transform(step) for step in range(30)] == [transform_at(5, step, 0.5) for step in range(30)]
    assert {replace(DRAWS, equivariance_share=0.0).transform(step) for step in range(30)} == {None}


def test_each_update_has_a_seed_of_its_own() -> None:
    seeds = [DRAWS.of_update(step) for step in range(100)]
    assert len(set(seeds)) == 100
    assert seeds[3] == derived_seed(5, "update", 3)
    assert replace(DRAWS, seed=6).of_update(3) != seeds[3]


def test_nothing_is_drawn_from_global_state() -> None:
    before = torch.get_rng_state()
    DRAWS.noise([0], SIZE), DRAWS.on_latents([0], SIZE, CPU), DRAWS.transform(0), DRAWS.of_update(0)
    assert torch.equal(torch.get_rng_state(), before)
