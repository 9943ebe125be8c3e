"""Large images measured piece by piece have the values of whole ones."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional import image as torchmetrics_image

from latent_ae.evaluation.metrics import baseline, large, structure
from latent_ae.evaluation.metrics.baseline import MeanImageStatistics
from latent_ae.evaluation.metrics.large import compare_large
from latent_ae.evaluation.metrics.quality import compare
from latent_ae.evaluation.perceptual import build_perceptual, distance
from latent_ae.io.pixel_format import PixelFormat


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large, "_STRIP_VALUES", 2000)
    monkeypatch.setattr(baseline, "_PIECE_VALUES", 2000)
    monkeypatch.setattr(structure, "_SIDE", 32)
    monkeypatch.setattr(distance, "_WINDOW", 32)


def pair(height: int, width: int, channels: int = 3, batch: int = 1) -> tuple[Tensor, Tensor]:
    """A reconstruction and its target, smooth enough to have a structure."""
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(batch, channels, height // 8 + 2, width // 8 + 2, generator=generator) * 2 - 1
    target = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(-1, 1), target


def assert_alike(found: dict[str, list[float | None]], expected: dict[str, list[float | None]]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        for got, value in zip(found[name], values, strict=True):
            # Of a flat image, SSIM's float32 variances are rounding alone.
            assert got == (value and pytest.approx(value, rel=1e-5, abs=2e-5 if "ssim" in name else 1e-7)), name


@pytest.mark.parametrize("size", [(177, 203), (64, 65), (12, 150), (151, 6), (5, 40), (33, 1)], ids=str)
def test_it_measures_what_is_measured_of_the_whole(size: tuple[int, int]) -> None:
    reconstruction, target = pair(*size)
    options = {
        "pixels": PixelFormat.picture(3),
        "perceptual": build_perceptual("random_features", image_channels=3),
    }
    expected = compare(reconstruction, target, **options)
    assert_alike(compare_large(reconstruction, target, **options), expected)
    assert ("ms_ssim" in expected) == (min(size) >= 176)


def test_it_measures_numbers_of_any_channels_and_several_images() -> None:
    form = PixelFormat(channels=5, numbers=True, dtype="uint16", ranges=((0.0, 4095.0),), gamma=2.0)
    reconstruction, target = pair(40, 50, channels=5, batch=2)
    target[1] = 0.25  # flat: it has no ratio of gradients
    found = compare_large(reconstruction, target, pixels=form)
    assert_alike(found, compare(reconstruction, target, pixels=form))
    assert {"psnr_4", "mae", "max_error"} <= found.keys()
    assert found["gradient_energy_ratio"][1] is None


def test_identical_images_and_broken_ones() -> None:
    _, target = pair(40, 40)
    found = compare_large(target, target, pixels=PixelFormat.picture(3))
    assert found["psnr"] == [math.inf]
    assert found["ssim"] == pytest.approx([1])
    broken = target.clone()
    broken[0, 1, 20, 20] = math.nan
    found = compare_large(broken, target, pixels=PixelFormat.picture(3))
    assert all(math.isnan(found[name][0]) for name in ("psnr", "l1", "ssim", "color_bias_1"))


def test_structure_is_torchmetrics_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "is_cuda", True)  # which float64 is for
    reconstruction, target = pair(176, 181, channels=1)
    ssim, ms_ssim = structure.structure(reconstruction, target, multiscale=True)
    monkeypatch.undo()
    x, y = ((image.double() + 1) / 2 for image in (reconstruction, target))
    expected = torchmetrics_image.structural_similarity_index_measure(x, y, data_range=1.0)
    assert ssim == pytest.approx(float(expected), rel=1e-9)
    expected = torchmetrics_image.multiscale_structural_similarity_index_measure(x, y, data_range=1.0)
    assert ms_ssim == pytest.approx(float(expected), rel=1e-6)  # it pools float32 here


def test_the_colour_of_a_large_image_is_added_up_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "_MEAN_IMAGE_VALUES", 1)
    images = torch.cat([pair(40, 50)[1], 0.5 * pair(40, 50)[0]]).double()
    statistics = MeanImageStatistics()
    statistics.update(images)
    other = images.mean((2, 3)).flip(0)[:, :, None, None]  # of two images, the mean colour of all others
    assert statistics.mean_is == "colour"
    assert statistics.mse() == pytest.approx(float((images - other).square().mean()), rel=1e-8)
