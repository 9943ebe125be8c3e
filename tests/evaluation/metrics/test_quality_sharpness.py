"""Gradient energy against numbers worked out by hand and numpy."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from latent_ae.evaluation.metrics.quality import gradient_energy_ratio


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(shape, generator=generator) * 2 - 1
    return target + 0.3 * torch.randn(shape, generator=generator), target


def test_by_hand() -> None:
    """Target: two horizontal differences of 1 and two vertical ones of 0, energy 2; halved, a quarter of it.

    The third reconstruction is clamped to 1, 0: as sharp; the fourth has only vertical differences, of 1 and 0.5.
    """
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(4, 1, 2, 2)
    reconstruction = torch.stack([target[0], target[0] / 2, target[0] * 9, torch.tensor([[[0, 0], [1.0, 0.5]]])])
    got = gradient_energy_ratio(reconstruction, target)
    assert got == pytest.approx([1, 0.25, 1, (1 + 0.25 + 0.25) / 2])


def test_is_numpys_over_all_channels() -> None:
    reconstruction, target = pair(3, 3, 9, 7)

    def energy(images: np.ndarray) -> np.ndarray:
        return sum((np.diff(images, axis=axis) ** 2).sum((1, 2, 3)) for axis in (2, 3))

    expected = energy(reconstruction.clamp(-1, 1).double().numpy()) / energy(target.double().numpy())
    assert gradient_energy_ratio(reconstruction, target) == pytest.approx(expected.tolist(), rel=1e-5)


def test_blur_lowers_it_and_noise_raises_it() -> None:
    noisy, target = pair(1, 3, 16, 16)
    blurred = torch.nn.functional.avg_pool2d(target, 3, 1, padding=1, count_include_pad=False)
    ratios = [gradient_energy_ratio(images, target)[0] for images in (blurred, target, noisy)]
    assert None not in ratios
    assert ratios == sorted(ratios)
    assert ratios[1] == 1


def test_a_flat_target_has_none() -> None:
    """One 8-bit level, 2/255, between neighbours that differ in a quarter of the places is the border."""
    noisy, _ = pair(4, 1, 1, 9)
    target = torch.zeros(4, 1, 1, 9)
    target[1, ..., 8] = 2 / 255  # 1 of 8 differences
    target[2, ..., 4:7:2] = 2 / 255  # 4 of 8
    target[3] = noisy[3]
    got = gradient_energy_ratio(noisy, target)
    assert [value is None for value in got] == [True, True, False, False]
    assert gradient_energy_ratio(torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)) == [None]


def test_a_reconstruction_that_is_not_finite_is_not_hidden() -> None:
    reconstruction, target = pair(1, 1, 4, 4)
    reconstruction[0, 0, 0, 0] = math.nan
    (got,) = gradient_energy_ratio(reconstruction, target)
    assert got is not None
    assert math.isnan(got)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\] of one shape"):
        gradient_energy_ratio(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
