from itertools import product

import pytest
import torch
from torch import nn

from latent_ae.errors import UserError
from latent_ae.models.bottlenecks.fsq import FSQBottleneck, grid
from tests.models.bottlenecks.tiny import vq_model


def test_the_grid_by_hand() -> None:
    third = 1 / 3
    expected = [[first, second] for second in (-1.0, 0.0, 1.0) for first in (-1.0, -third, third, 1.0)]
    torch.testing.assert_close(grid((4, 3)), torch.tensor(expected))
    assert grid((2,)).tolist() == [[-1.0], [1.0]]


def test_the_grid_of_odd_levels_is_that_of_the_reference() -> None:
    from vector_quantize_pytorch import FSQ

    theirs = FSQ([5, 3, 7]).indices_to_codes(torch.arange(5 * 3 * 7))
    torch.testing.assert_close(grid((5, 3, 7)), theirs)


@pytest.mark.parametrize("levels", [(2,), (8, 5, 5, 5), (4, 3), (2, 2, 2)])
def test_codes_are_those_of_rounding_each_channel(levels: tuple[int, ...]) -> None:
    size = len(grid(levels))
    bottleneck = FSQBottleneck(nn.Embedding(size, len(levels)), levels=levels)
    h = 1.5 * torch.randn(4, len(levels), 8, 8)
    output = bottleneck(h, torch.zeros(4, 0))
    steps = torch.tensor(levels).reshape(-1, 1, 1) - 1
    digits = ((h.clamp(-1, 1) + 1) / 2 * steps).round()
    place = torch.tensor([1, *levels[:-1]]).cumprod(0).reshape(-1, 1, 1)
    assert torch.equal(output.codes, (digits * place).sum(1).long())
    torch.testing.assert_close(output.latents, 2 * digits / steps - 1)
    error = (h - (2 * digits / steps - 1)).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(output.stats["quantization_error"], error)
    torch.testing.assert_close(output.stats["clipped"], (h.abs() > 1).float().mean(dim=(1, 2, 3)))


def test_gradients_pass_inside_and_lead_back_from_outside() -> None:
    bottleneck = FSQBottleneck(nn.Embedding(5, 1), levels=(5,))
    for value, upstream in product((-2.0, -1.0, 0.3, 1.0, 2.0), (-1.5, 1.5)):
        h = torch.full((1, 1, 1, 1), value, requires_grad=True)
        latents = bottleneck(h, torch.zeros(1, 0)).latents
        (gradient,) = torch.autograd.grad(latents, h, torch.full_like(latents, upstream))
        outward = abs(value) > 1 and upstream * value < 0  # a descent would add to |value|
        assert gradient.item() == (0.0 if outward else upstream)


def test_the_codebook_is_fixed() -> None:
    embedding = nn.Embedding(12, 2)
    bottleneck = FSQBottleneck(embedding, levels=(4, 3))
    assert not embedding.weight.requires_grad
    assert torch.equal(embedding.weight, grid((4, 3)))
    output = bottleneck(torch.randn(2, 2, 3, 3), torch.zeros(2, 0))
    bottleneck.after_update(output.sums, None, seed=0)
    assert torch.equal(embedding.weight, grid((4, 3)))


def test_an_averaged_grid_is_the_grid_again() -> None:
    model = vq_model()
    bottleneck = FSQBottleneck(model.quantize.embedding, levels=(4, 3))
    with torch.no_grad():
        model.quantize.embedding.weight.mul_(1.0 - 1e-6)
    bottleneck.fold(model)
    assert torch.equal(model.quantize.embedding.weight, grid((4, 3)))


@pytest.mark.parametrize(
    ("codes", "channels", "levels", "message"),
    [
        (12, 2, (4, 4), r"fsq levels \(4, 4\) need a codebook of shape \(16, 2\), got \(12, 2\)"),
        (12, 3, (4, 3), r"need a codebook of shape \(12, 2\), got \(12, 3\)"),
        (4, 2, (4, 1), r"2 or more each, got \(4, 1\)"),
    ],
)
def test_levels_that_do_not_fit(codes: int, channels: int, levels: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FSQBottleneck(nn.Embedding(codes, channels), levels=levels)
