"""The equivariance error of encoders whose error can be worked out by hand."""

import json
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latent_ae.evaluation.metrics.equivariance import EquivarianceStatistics

Encode = Callable[[Tensor], Tensor]


def images(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def measured(encode: Encode, factor: int, *batches: Tensor) -> EquivarianceStatistics:
    statistics = EquivarianceStatistics(factor)
    for pixels in batches:
        statistics.update(encode, pixels)
    return statistics


def errors(encode: Encode, factor: int, *batches: Tensor) -> dict[str, float | None]:
    return {name: row["error"] for name, row in measured(encode, factor, *batches).to_dict().items()}


def columns(pixels: Tensor) -> Tensor:
    """Latents that are their own column's number, whatever the image."""
    return pixels[:, :1] * 0 + torch.arange(pixels.shape[3], dtype=pixels.dtype)


def mixed(pixels: Tensor) -> Tensor:
    """Neither equivariant nor constant: factor 2, 3 channels; float64, so that no batch size shows in its rounding."""
    generator = torch.Generator().manual_seed(2)
    kernel = torch.randn(3, pixels.shape[1], 2, 2, generator=generator, dtype=torch.float64)
    return F.conv2d(pixels.double(), kernel, stride=2)


def test_a_pointwise_encoder_is_equivariant() -> None:
    """Bilinear weights sum to 1, so a linear map of each pixel commutes with halving too; sides need not be equal."""
    got = errors(lambda pixels: 3 * pixels[:, :2] - pixels[:, 1:] + 7, 1, images(2, 3, 8, 12))
    assert list(got) == ["rot90", "rot180", "rot270", "flip", "half"]
    assert list(got.values()) == pytest.approx([0] * 5, abs=1e-12)


def test_averaging_encoder_turns_with_the_image() -> None:
    """Halving overlaps the blocks that are averaged, so only turns and flip are exact."""
    got = errors(lambda pixels: F.avg_pool2d(pixels, 4), 4, images(3, 3, 16, 24))
    assert [got[name] for name in ("rot90", "rot180", "rot270", "flip")] == pytest.approx([0] * 4, abs=1e-12)
    assert got["half"] is not None
    assert 1e-3 < got["half"] < 0.5


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (100, -7)])
def test_turns_by_hand(scale: float, shift: float) -> None:
    """Columns [0 1; 0 1] have variance 1/4. Flipped and turned by 180 they become [1 0; 1 0]: squares of 1, error 4.

    Turned by 90 they become [1 1; 0 0] or [0 0; 1 1]: two of four squares are 1, error 2.
    """
    got = errors(lambda pixels: columns(pixels) * scale + shift, 1, torch.zeros(2, 1, 2, 2))
    assert [got[name] for name in ("rot90", "rot180", "rot270", "flip")] == pytest.approx([2, 4, 2, 4])


def test_halving_by_hand() -> None:
    """Columns 0 1 2 3 have variance 5/4; halved with triangle weights (3 3 1)/7 they are 5/7, 16/7 instead of 0, 1."""
    got = errors(columns, 1, torch.zeros(1, 1, 4, 4))
    assert got["half"] == pytest.approx(((5 / 7) ** 2 + (9 / 7) ** 2) / 2 / (5 / 4), rel=1e-6)


def test_is_ratio_of_means_over_images_and_channels_by_numpy() -> None:
    pixels = images(5, 1, 6, 6) * torch.linspace(0, 1, 5)[:, None, None, None]
    latents, flipped = (mixed(x).numpy() for x in (pixels, pixels.flip(3)))
    squares = ((flipped - latents[..., ::-1]) ** 2).mean()
    expected = squares / ((latents - latents.mean((0, 2, 3), keepdims=True)) ** 2).mean()
    assert errors(mixed, 2, pixels)["flip"] == pytest.approx(expected, rel=1e-6)


def test_any_split_is_the_same() -> None:
    pixels = images(9, 3, 8, 8)
    whole = measured(mixed, 2, pixels).to_dict()
    parts = [measured(mixed, 2, *pixels[i::3].split(2)) for i in range(3)]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = EquivarianceStatistics(2)
        for i in order:
            merged.merge(parts[i])
        assert merged.to_dict() == whole
    json.dumps(whole, allow_nan=False)


def test_half_is_left_out_where_it_does_not_fit() -> None:
    fits, other = images(2, 3, 8, 8), images(3, 3, 8, 12)
    only = measured(lambda pixels: F.avg_pool2d(pixels, 4), 4, other).to_dict()
    assert only["half"] == {"error": None, "images": 0, "reason": "no image has sides that are multiples of 8"}
    assert only["rot90"]["images"] == 3
    both = measured(lambda pixels: F.avg_pool2d(pixels, 4), 4, other, fits).to_dict()
    assert both["half"] == measured(lambda pixels: F.avg_pool2d(pixels, 4), 4, fits).to_dict()["half"]
    assert (both["half"]["images"], both["flip"]["images"]) == (2, 5)


def test_what_has_no_error_says_why() -> None:
    assert EquivarianceStatistics(2).to_dict()["flip"]["reason"] == "no image"
    constant = measured(lambda pixels: pixels * 0 + 5, 1, images(2, 3, 4, 4)).to_dict()
    assert constant["rot90"] == {"error": None, "images": 0, "reason": "the latents do not vary"}

    def broken(pixels: Tensor) -> Tensor:
        return torch.where(pixels[:, :, :1, :1] > 0, pixels, math.nan)

    pixels = torch.ones(3, 1, 2, 2)
    pixels[1, 0, 0, 1] = -1  # the corner that decides, once it is flipped or turned by 90
    found = measured(broken, 1, pixels).to_dict()
    for name in ("flip", "rot90"):
        assert found[name] == {
            "error": None,
            "images": 0,
            "reason": "1 of 3 images gave latents that are not finite",
        }
    assert found["rot180"]["error"] == 0


def test_wrong_shapes_are_refused() -> None:
    statistics = measured(mixed, 2, images(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"sides that are multiples of 2, got \[1, 3, 4, 5\]"):
        statistics.update(mixed, images(1, 3, 4, 5))
    with pytest.raises(ValueError, match=r"must give latents \[1, c, 2, 2\] .* got \[1, 3, 4, 4\]"):
        statistics.update(lambda pixels: pixels, images(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"must be \[3\] as before, got \[1\]"):
        statistics.update(lambda pixels: mixed(pixels)[:, :1], images(1, 3, 4, 4))
    with pytest.raises(ValueError, match="factors must be equal, got 2 and 4"):
        statistics.merge(EquivarianceStatistics(4))
    with pytest.raises(ValueError, match="factor must be 1 or more, got 0"):
        EquivarianceStatistics(0)
    assert statistics.images == 1
