"""Latents and target go through the same transform, whatever the size."""

from collections import Counter

import pytest
import torch
from PIL import Image
from torch import Tensor

from latent_ae.models.transform import LatentTransform, smallest_side, transform_at


def grid(*shape: int) -> Tensor:
    return torch.arange(float(torch.tensor(shape).prod())).reshape(shape)


def test_a_quarter_turn_is_counterclockwise_by_hand() -> None:
    latents = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])[None, None]
    turned = LatentTransform(1.0, 1).of_latents(latents)[0, 0]
    assert turned.tolist() == [[3.0, 6.0], [2.0, 5.0], [1.0, 4.0]]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_alone_loses_nothing(turns: int) -> None:
    latents = grid(2, 3, 4, 6)
    turned = LatentTransform(1.0, turns).of_latents(latents)
    assert torch.equal(LatentTransform(1.0, 4 - turns).of_latents(turned), latents)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("scale", [8 / 32, 13 / 32, 31 / 32])
@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 2)])
def test_the_target_has_the_size_that_the_latents_decode_to(turns: int, scale: float, size: tuple[int, int]) -> None:
    transform, factor = LatentTransform(scale, turns), 4
    latents = transform.of_latents(grid(1, 2, *size))
    pixels = transform.of_pixels(grid(1, 3, size[0] * factor, size[1] * factor), factor)
    assert latents.shape[:2] == (1, 2)
    assert pixels.shape[-2:] == (latents.shape[-2] * factor, latents.shape[-1] * factor)
    rows, columns = (max(1, round(side * scale)) for side in size)
    assert latents.shape[-2:] == ((columns, rows) if turns % 2 else (rows, columns))


def test_scaling_by_a_half_is_pillows() -> None:
    # Pillow's bilinear filter is a triangle over the source pixels too, in 8 bits.
    pixels = (grid(1, 1, 16, 24) * 7) % 256
    image = Image.fromarray(pixels[0, 0].byte().numpy())
    expected = torch.tensor(list(image.resize((12, 8), Image.Resampling.BILINEAR).tobytes())).reshape(8, 12)
    ours = LatentTransform(0.5, 4).of_pixels(pixels, factor=2)[0, 0]
    torch.testing.assert_close(ours, expected.float(), atol=1.01, rtol=0)


def test_a_decoder_that_repeats_positions_commutes_with_it() -> None:
    # For a codec that is equivariant by itself, decode(t(z)) = t(decode(z)): to the last bit for turns.
    latents = torch.randn(2, 3, 4, 4)
    transform = LatentTransform(1.0, 3)
    decoded = latents.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    of_transformed = transform.of_latents(latents).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(transform.of_pixels(decoded, factor=2), of_transformed)


def test_a_gradient_goes_back_through_it() -> None:
    latents = torch.randn(1, 2, 8, 8, requires_grad=True)
    LatentTransform(0.5, 1).of_latents(latents).sum().backward()
    assert latents.grad is not None
    # The weights of each output sum to 1, and there are a quarter as many.
    assert latents.grad.sum().item() == pytest.approx(2 * 16)


def test_it_is_drawn_for_the_share_of_updates_from_all_scales_and_turns() -> None:
    drawn = [transform_at(0, step, 0.25) for step in range(4000)]
    found = [transform for transform in drawn if transform is not None]
    assert len(found) == pytest.approx(1000, abs=100)
    assert Counter(round(transform.scale * 32) for transform in found).keys() == set(range(8, 32))
    assert set(Counter(transform.turns for transform in found)) == {1, 2, 3}
    assert min(Counter(transform.turns for transform in found).values()) > 250


def test_share_0_is_off_and_share_1_is_always() -> None:
    assert {transform_at(0, step, 0.0) for step in range(50)} == {None}
    assert None not in {transform_at(0, step, 1.0) for step in range(50)}


@pytest.mark.parametrize(("side", "factor"), [(16, 2), (24, 8), (256, 16), (8, 8)])
def test_the_smallest_side_is_the_least_of_all_that_are_drawn(side: int, factor: int) -> None:
    drawn = [transform_at(0, step, 1.0) for step in range(300)]
    pixels = torch.zeros(1, 1, side, side)
    sides = {min(transform.of_pixels(pixels, factor).shape[-2:]) for transform in drawn if transform is not None}
    assert smallest_side(side, factor) == min(sides)


def test_it_follows_from_seed_and_step_alone() -> None:
    torch.manual_seed(1)
    first = [transform_at(3, step, 1.0) for step in range(20)]
    torch.manual_seed(2)
    assert [transform_at(3, step, 1.0) for step in range(20)] == first
    assert [transform_at(4, step, 1.0) for step in range(20)] != first
