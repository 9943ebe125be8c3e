import pytest
import torch

from latent_ae.randomness import derived_seed, numpy_generator, sample_noise, torch_generator


def test_a_draw_depends_on_every_part_of_its_place() -> None:
    seeds = {
        derived_seed(*arguments)
        for arguments in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 0), (0, "a", 1), (0, "a", 1, 0)]
    }
    assert len(seeds) == 6


def test_the_values_are_a_contract() -> None:
    # A resumed run must draw what an older version of the program would have drawn.
    assert derived_seed(0, "posterior", 7) == 1282103912847256603
    assert numpy_generator(0, "crop", 3).integers(1000, size=3).tolist() == [625, 361, 773]


def test_noise_belongs_to_the_sample_not_to_the_batch() -> None:
    whole = sample_noise(5, first=10, count=4, shape=(2, 3, 3))
    parts = torch.cat([sample_noise(5, 10, 1, (2, 3, 3)), sample_noise(5, 11, 3, (2, 3, 3))])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole[0], whole[1])


def test_noise_is_what_a_generator_of_each_sample_gives() -> None:
    for shape in ((2, 3, 3), (8, 4, 4)):  # below 16 values torch draws by another algorithm
        apart = [torch.randn(shape, generator=torch_generator(5, "latents", number)) for number in range(10, 14)]
        noise = sample_noise(5, 10, 4, shape, purpose="latents", device=torch.device("cpu"))
        assert torch.equal(noise, torch.stack(apart))


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = torch.random.get_rng_state()
    torch.randn(3, generator=torch_generator(0, "x"))
    sample_noise(0, 0, 2, (4,))
    assert torch.equal(before, torch.random.get_rng_state())


def test_negative_places_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or more, got seed=0"):
        derived_seed(0, "x", -1)
