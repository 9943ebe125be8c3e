"""Metrics in strips, and classical codecs at the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from latent_ae.evaluation.metrics.quality import psnr, ssim
from latent_ae.evaluation.perceptual import build_perceptual
from latent_ae.io.image import to_tensor
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.service import measures
from latent_ae.service.errors import DeadlineExceeded
from latent_ae.service.measures import Perceptual, baselines, best_within, measure
from latent_ae.service.results import Size

from .conftest import pixels, saved

NONE = Perceptual()


def go_on(_share: float = 0.0) -> None:
    pass


# ------------------------------------------------------------------------------------------------------------ quality


@pytest.mark.parametrize("size", [(40, 31), (17, 8), (7, 6), (10, 90)])
@pytest.mark.parametrize("rows", [3, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_measured_in_strips_it_is_what_the_whole_image_has(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], channels: int, rows: int
) -> None:
    a, b = pixels(*size, channels), pixels(*size, channels, seed=1)
    monkeypatch.setattr(measures, "_STRIP_PIXELS", rows * size[1])
    metrics, notes = measure(a, b, PixelFormat.picture(channels), NONE, go_on)
    whole = [to_tensor(image)[None] for image in (a, b)]
    assert metrics["PSNR"] == pytest.approx(float(psnr(*whole)), rel=1e-6)
    assert metrics["SSIM"] == pytest.approx(float(ssim(*whole)), rel=1e-5)
    assert notes == {"LPIPS": "not asked for"}


def test_what_cannot_be_measured_says_why() -> None:
    image = pixels(5, 40)
    metrics, notes = measure(image, image, PixelFormat.picture(3), NONE, go_on)
    assert metrics == {"PSNR": None, "SSIM": None, "LPIPS": None}
    assert "the same" in notes["PSNR"]
    assert "fewer than 6" in notes["SSIM"]


def test_lpips_is_measured_where_there_is_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_perceptual("random_features", image_channels=3)
    with_one = Perceptual(network, "")
    a, b = pixels(20, 24, 1), pixels(20, 24, 1, seed=1)
    both = [to_tensor(image.repeat(3, axis=2))[None] for image in (a, b)]
    metrics, notes = measure(a, b, PixelFormat.picture(1), with_one, go_on)
    assert metrics["LPIPS"] == pytest.approx(float(network(*both)))
    assert notes == {}
    assert "fewer than 4" in measure(a[:3], b[:3], PixelFormat.picture(1), with_one, go_on)[1]["LPIPS"]
    monkeypatch.setattr(measures, "PERCEPTUAL_PIXELS", 400)
    assert "not measured on more than" in measure(a, b, PixelFormat.picture(1), with_one, go_on)[1]["LPIPS"]


def test_weights_are_looked_for_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    found = Perceptual.find()
    assert found.distance is None
    assert "alexnet-owt" in found.reason
    assert str(tmp_path) not in found.reason
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "vgg16-397923af.pth").write_bytes(b"none")
    assert "vgg16-397923af.pth" in Perceptual.find().reason


def test_measuring_ends_when_it_is_told_to() -> None:
    def stop(_share: float = 0.0) -> None:
        raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        measure(pixels(), pixels(), PixelFormat.picture(3), NONE, stop)
    with pytest.raises(DeadlineExceeded):
        best_within("JPEG", pixels(), 1000, stop)


# ------------------------------------------------------------------------------------------------------------ baselines


@pytest.mark.parametrize(("name", "qualities"), [("JPEG", range(1, 96)), ("WebP", range(101))])
@pytest.mark.parametrize(("channels", "share"), [(1, 0.3), (3, 0.6), (3, 1.0)])
def test_a_baseline_has_the_best_quality_within_the_bytes(
    name: str, qualities: range, channels: int, share: float
) -> None:
    image = pixels(30, 40, channels)
    options = {"optimize": True} if name == "JPEG" else {"method": 4}
    sizes = [len(saved(image, name, quality=quality, **options)) for quality in qualities]
    most_bytes = round(sizes[0] + share * (sizes[-1] - sizes[0]))
    data, quality = best_within(name, image, most_bytes, go_on)
    best = max(quality for quality, size in zip(qualities, sizes, strict=True) if size <= most_bytes)
    assert data == saved(image, name, quality=quality, **options)
    assert len(data) <= most_bytes
    assert best - quality <= 1  # single steps of a codec may go down


def test_where_no_quality_keeps_to_the_bytes_it_is_the_lowest() -> None:
    data, quality = best_within("JPEG", pixels(40, 40), 100, go_on)
    assert (quality, len(data) > 100) == (1, True)


def test_a_format_that_cannot_hold_the_image_is_left_out() -> None:
    found = baselines(np.zeros((1, 16_384, 3), np.uint8), [Size("codes", 10_000, 1.0)], NONE, go_on)
    assert [(each.name, each.reached, each.image.shape) for each in found] == [("JPEG", True, (1, 16_384, 3))]


def test_the_search_for_baselines_reports_how_far_it_is() -> None:
    shares: list[float] = []
    baselines(pixels(40, 40), [Size("codes", 1500, 1.0)], NONE, shares.append)
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert 0.5 in shares  # the second format begins
    assert 0.8 < shares[-1] <= 1.0
    assert len(set(shares)) > 10
