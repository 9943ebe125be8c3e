"""What measuring will take is said before it starts, and refused where there is no memory for it."""

import re
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae.config import EvaluationConfig
from latent_ae.errors import BrokenImage, UserError
from latent_ae.evaluation import forecast as module
from latent_ae.evaluation.evaluate import Networks
from latent_ae.evaluation.forecast import Work, forecast
from latent_ae.evaluation.perceptual import build_perceptual
from latent_ae.io.pixel_format import PixelFormat
from tests.data.images import ListSource, noise_image

SIZES = [(20, 30), (40, 50), (10, 10)]


@pytest.fixture
def model() -> AutoencoderKL:
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**blocks, block_out_channels=(4, 8), norm_num_groups=2, latent_channels=2, layers_per_block=1)


def foretold(model: AutoencoderKL, measured: Work, encoded: Work | None = None, **changes: Any) -> str | None:
    networks = Networks(build_perceptual("random_features", image_channels=3))
    more = {name: changes.pop(name) for name in ("times", "processes", "kept_bytes") if name in changes}
    config = EvaluationConfig(**changes)
    return forecast(model, networks, PixelFormat.picture(3), config, measured=measured, encoded=encoded, **more)


def test_the_work_is_estimated_from_images_spread_over_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    images = ListSource([noise_image(number, width, height) for number, (height, width) in enumerate(SIZES)])
    assert Work.of(images, None, None) == (3, 600 + 2000 + 100, (40, 50))
    assert Work.of(images, 2, None) == (2, 2600, (40, 50))
    images.images[1] = BrokenImage("cut")
    assert Work.of(images, None, None) == (3, 1050, (20, 30))
    images.images[:] = [BrokenImage("cut")] * 3
    assert Work.of(images, None, None) == (0, 0, (0, 0))
    assert Work.of(images, None, (16, 24)) == (3, 3 * 384, (16, 24))  # no image is opened
    monkeypatch.setattr(module, "_LOADED", 2)
    many = ListSource([noise_image(number, 10, 8 if number < 4 else 16) for number in range(8)])
    assert Work.of(many, None, None) == (8, 8 * 120, (16, 10))


def test_little_work_is_not_worth_a_word(model: AutoencoderKL) -> None:
    assert foretold(model, Work(100, 100 * 4096, (64, 64))) is None
    assert foretold(model, Work(0, 0, (0, 0))) is None


def test_it_says_memory_and_time(model: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    line = foretold(model, Work(3, 3_000_000, (1000, 1200)), Work(1100, 10**9, (900, 900)), times=4)
    assert line is not None
    expected = (
        r"measuring 3 images 4 times and the latents of 1,100, of up to 1\.2 megapixels: about (\d+) MiB of memory and "
        r"\d+(\.\d)? (seconds|minutes|hours)"
    )
    found = re.match(expected, line)
    assert found is not None, line
    images, window = 2 * 3 * 4 * 1.2, 544**2 * 100 * 4 / 1e6
    assert images + window < int(found[1]) * 1.049 < 400
    monkeypatch.setattr(module, "_LONG", 0)
    line = foretold(model, Work(3, 3_000_000, (1000, 1200)))
    assert line is not None
    assert "measuring 3 images, of up to 1.2 megapixels" in line
    assert line.endswith("(--evaluation.max_images, --evaluation.latent_images)")


def test_what_does_not_fit_is_refused_with_what_would(model: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_bytes", lambda _: 32 << 20)
    work = Work(3, 6_000_000, (1000, 2000))
    with pytest.raises(
        UserError, match=r"of 2000x1000 pixels would take about \d+ MiB of memory, 32 MiB .* --evaluation.size 512"
    ):
        foretold(model, work)
    with pytest.raises(
        UserError, match=r"in each of 2 processes, 16 MiB are free: give .*pixels_at_once less than 4000000"
    ):
        foretold(model, work, processes=2, pixels_at_once=4_000_000)


def test_training_images_that_are_kept_take_of_what_is_free(
    model: AutoencoderKL, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(3, 6_000_000, (1000, 2000))
    monkeypatch.setattr(module, "available_bytes", lambda _: 2 << 30)
    assert foretold(model, work, processes=2, kept_bytes=lambda: 100 << 20) is not None
    with pytest.raises(UserError, match=r"24 MiB are free beside 1000 MiB of training images \(data.keep_mib\): give"):
        foretold(model, work, processes=2, kept_bytes=lambda: 1000 << 20)
