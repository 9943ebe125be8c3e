"""Ways through the latent space have the ends, the lengths and the middles they are said to have."""

import math

import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.inference.prior_sampling import draw
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.models.latent_space import interpolate, interpolate_grid, prior_draw


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spherical", [False, True])
def test_a_way_has_both_ends_exactly(spherical: bool) -> None:
    a, b = random(2, 3, 5), random(2, 3, 5, seed=1)
    way = interpolate(a, b, 7, spherical=spherical)
    assert way.shape == (7, 2, 3, 5)
    assert torch.equal(way[0], a)
    assert torch.equal(way[-1], b)


def test_a_line_has_equal_steps() -> None:
    way = interpolate(torch.tensor([0.0, 4.0]), torch.tensor([2.0, 0.0]), 5, spherical=False)
    assert way.tolist() == [[0.0, 4.0], [0.5, 3.0], [1.0, 2.0], [1.5, 1.0], [2.0, 0.0]]


def test_an_arc_turns_at_an_even_pace_and_keeps_the_length() -> None:
    way = interpolate(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]), 4, spherical=True)
    wanted = [[3 * math.cos(turn), 3 * math.sin(turn)] for turn in (0, math.pi / 6, math.pi / 3, math.pi / 2)]
    torch.testing.assert_close(way[:, 0], torch.tensor(wanted))


def test_an_arc_takes_all_values_of_an_image_as_one_vector() -> None:
    a, b = random(4, 8, 8), 2 * random(4, 8, 8, seed=1)
    middle = interpolate(a, b, 3, spherical=True)[1]
    cosine = torch.dot(a.flatten(), b.flatten()) / (a.norm() * b.norm())
    # In the middle both have the weight sin(angle / 2) / sin(angle) = 1 / (2 cos(angle / 2)).
    torch.testing.assert_close(middle, (a + b) / (2 * math.cos(math.acos(cosine) / 2)))


@pytest.mark.parametrize("factor", [2.0, -1.0, 1.0, 0.0])
def test_along_vectors_without_an_arc_it_is_the_line(factor: float) -> None:
    a = random(2, 4, 4)
    arc = interpolate(a, factor * a, 5, spherical=True)
    assert arc.isfinite().all()
    torch.testing.assert_close(arc, interpolate(a, factor * a, 5, spherical=False))


def test_a_walk_is_bilinear_between_its_corners() -> None:
    corners = random(4, 2, 3, 3)
    field = interpolate_grid(corners, 5)
    assert field.shape == (5, 5, 2, 3, 3)
    for (row, column), corner in zip([(0, 0), (0, 4), (4, 0), (4, 4)], corners, strict=True):
        assert torch.equal(field[row, column], corner)
    x, y = 0.75, 0.25
    weights = torch.tensor([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
    torch.testing.assert_close(field[1, 3], (weights[:, None, None, None] * corners).sum(0))


@pytest.mark.parametrize(
    ("way", "message"),
    [
        (lambda: interpolate(random(2), random(2), 1, spherical=False), "needs at least 2 steps, got 1"),
        (lambda: interpolate(random(2), random(3), 3, spherical=True), r"different shapes, \[2\] and \[3\]"),
        (lambda: interpolate_grid(random(3, 2), 4), "needs 4 corners, got 3"),
        (lambda: interpolate_grid(random(4, 2), 1), "needs at least 2 steps"),
    ],
)
def test_what_has_no_way_is_refused(way, message: str) -> None:
    with pytest.raises(UserError, match=message):
        way()


def test_a_draw_follows_from_its_seed_and_place() -> None:
    assert torch.equal(prior_draw((2, 3, 3), 5, seed=4)[:2], prior_draw((2, 3, 3), 2, seed=4))
    assert not torch.equal(prior_draw((2, 3, 3), 1, seed=4), prior_draw((2, 3, 3), 1, seed=5))


def test_gaussian_draws_have_the_temperature_as_their_spread() -> None:
    codec = Codec(build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16), name="m", precision="fp32")
    cold, warm = (draw(codec, 3, seed=0, temperature=t, height=65, width=128) for t in (0.5, 1.0))
    assert warm.shape == (3, 2, 33, 64)
    assert torch.equal(cold, 0.5 * warm)
    assert float(warm.std()) == pytest.approx(1, abs=0.02)


def test_draws_of_codes_use_the_whole_codebook() -> None:
    bottleneck = VQConfig(codebook_size=5, code_channels=3)
    codec = Codec(
        build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=0, resolution=16), name="m", precision="fp32"
    )
    vectors = draw(codec, 2, seed=0, temperature=1.0, height=64, width=64)
    assert vectors.shape == (2, 3, 32, 32)
    codes = codec.codebook.nearest(vectors)
    counts = codes.flatten().bincount(minlength=5)
    # 2048 draws of 5 codes: 410 of each, give or take four standard deviations of 18.
    assert counts.min() > 410 - 72
    assert torch.equal(codec.codebook.vectors(codes), vectors)
