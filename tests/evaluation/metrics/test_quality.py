"""Measures against numbers worked out by hand, scipy, scikit-image and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from latent_ae.evaluation.metrics.quality import l1, ms_ssim, psnr, ssim


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(shape, generator=generator) * 2 - 1
    return target + 0.3 * torch.randn(shape, generator=generator), target


def test_psnr_by_hand() -> None:
    """A difference of 0.2 everywhere: 10 log10(4 / 0.04) = 20 dB; of 2: 0 dB."""
    target = torch.full((3, 3, 8, 8), -0.5)
    target[2] = -1
    reconstruction = target + torch.tensor([0.2, 0.0, 9.0])[:, None, None, None]
    assert psnr(reconstruction, target).tolist() == pytest.approx([20, math.inf, 0], abs=1e-4)


def test_psnr_is_scikit_images_of_the_clamped_reconstruction() -> None:
    reconstruction, target = pair(3, 3, 12, 10)
    assert reconstruction.abs().max() > 1
    expected = [
        peak_signal_noise_ratio(wanted.numpy(), got.clamp(-1, 1).numpy(), data_range=2)
        for got, wanted in zip(reconstruction, target, strict=True)
    ]
    assert psnr(reconstruction, target).tolist() == pytest.approx(expected, rel=1e-5)


def test_l1_by_hand() -> None:
    target = torch.zeros(2, 1, 2, 2)
    reconstruction = torch.tensor([[0.5, -0.5, 0.25, 0.0], [3.0, 0.0, 0.0, 0.0]]).reshape(2, 1, 2, 2)
    assert l1(reconstruction, target).tolist() == [0.3125, 0.25]


def scipy_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Wang et al. 2004, equation 13, on one channel in [0, 1]."""

    def mean(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, mode="mirror", truncate=3.5)

    mean_one, mean_other = mean(one), mean(other)
    variance_one, variance_other = mean(one**2) - mean_one**2, mean(other**2) - mean_other**2
    covariance = mean(one * other) - mean_one * mean_other
    luminance = (2 * mean_one * mean_other + 0.01**2) / (mean_one**2 + mean_other**2 + 0.01**2)
    return float(np.mean(luminance * (2 * covariance + 0.03**2) / (variance_one + variance_other + 0.03**2)))


def test_ssim_by_scipy() -> None:
    reconstruction, target = pair(2, 3, 24, 17)
    one, other = ((images.clamp(-1, 1).double().numpy() + 1) / 2 for images in (reconstruction, target))
    expected = [np.mean([scipy_ssim(one[b, c], other[b, c]) for c in range(3)]) for b in range(2)]
    got = ssim(reconstruction, target)
    assert got is not None
    assert got.tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_runs_in_float32_under_autocast() -> None:
    images = pair(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        got = ssim(*images)
    expected = ssim(*images)
    assert got is not None
    assert expected is not None
    assert torch.equal(got, expected)


def test_ssim_needs_six_pixels() -> None:
    assert ssim(*pair(1, 1, 5, 40)) is None
    assert ssim(*pair(1, 1, 6, 40)) is not None


def test_ms_ssim_needs_176_pixels() -> None:
    reconstruction, target = pair(2, 1, 176, 176)
    assert ms_ssim(reconstruction[..., :175], target[..., :175]) is None
    got = ms_ssim(reconstruction, target)
    assert got is not None
    for index in range(2):
        images = [(x[index : index + 1].clamp(-1, 1) + 1) / 2 for x in (reconstruction, target)]
        expected = multiscale_structural_similarity_index_measure(*images, data_range=1.0)
        assert float(got[index]) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("measure", [psnr, l1, ssim, ms_ssim])
def test_shapes_must_agree(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match=r"must be \[B, C, H, W\] of one shape, got \(1, 3, 8, 8\) and \(1, 1, 8, 8\)"):
        measure(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
