"""What a run says of its images at its start."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from latent_ae.config import ModelConfig
from latent_ae.data import DigitsConfig
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.training.describe import describe_levels, describe_run
from latent_ae.training.settings import RunConfig


def test_a_run_on_images_of_few_levels_is_warned_of_before_it_starts() -> None:
    """12-bit values read in the range of 16 bits use a sixteenth of the levels."""
    values = torch.arange(4096).view(1, 1, 64, 64)
    form = PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 65535.0),))
    line, warning = describe_levels(values / 65535 * 2 - 1, form).splitlines()
    assert line == "levels: the median of 1 training crops uses 17 of 256"
    assert warning.startswith("warning: 1 of 1 images use at most 17 of 256 levels")
    assert warning.endswith("give a narrower data.value_range, or data.percentiles")
    assert describe_levels(values / 4095 * 2 - 1, form) == "levels: the median of 1 training crops uses 256 of 256"


WARM_UP = {"beta": 1.0, "beta_schedule": "linear", "beta_warmup_steps": 300}
GAN = {"loss": "hinge", "start_step": 400}


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({}, False),
        ({"loss": WARM_UP}, True),
        ({"loss": WARM_UP, "train": {"keep_best_from_step": 199}}, True),  # the first that counts is after 200
        ({"loss": WARM_UP, "train": {"keep_best_from_step": 201}}, False),  # after 300
        ({"adversarial": GAN}, True),
        ({"adversarial": GAN, "train": {"keep_best_from_step": 500}}, False),
    ],
)
def test_a_loss_that_still_changes_when_weights_begin_to_be_compared_is_warned_of(
    settings: dict[str, dict[str, object]], warned: bool
) -> None:
    train = {"keep_best": "psnr", "evaluate_every_steps": 100, "patience": 3, **settings.get("train", {})}
    config = RunConfig.model_validate({"model": {"preset": "tiny"}, **settings, "train": train})
    model = build_autoencoder(config.model, seed=0, resolution=32)
    said = describe_run(config, DigitsConfig().open(), model, PixelFormat.picture(1)).splitlines()
    line = "result: the weights with the best held-out psnr, measured every 100 steps; "
    assert f"{line}it ends after 3 validations without improvement" in said
    assert any(text.startswith("warning: the loss still changes after update") for text in said) == warned


def test_a_start_from_a_model_that_reads_other_numbers_is_warned_of(tmp_path: Path) -> None:
    config = RunConfig.model_validate({"model": {"preset": None, "init_from": str(tmp_path)}})
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=32)
    model.save_pretrained(tmp_path)
    parts, own = DigitsConfig().open(), PixelFormat(1, numbers=True, dtype="uint16", ranges=((0.0, 4095.0),))
    assert "warning" not in describe_run(config, parts, model, own)  # of pictures, which any range may stand for
    (tmp_path / "pixel_format.json").write_text(own.to_json())
    assert "warning" not in describe_run(config, parts, model, own)
    said = describe_run(config, parts, model, PixelFormat.picture(1))
    assert f"warning: init_from {tmp_path} reads 1 channel, uint16 in 0..4095, and this run grey" in said.splitlines()


@pytest.mark.parametrize(
    ("colors", "channels", "warned"),
    [
        ([(10, 10, 10)] * 3, 1, False),
        ([(10, 20, 18)] * 3, 1, False),  # a scan of grey paper
        ([(10, 10, 10), (200, 30, 30), (10, 10, 10)], 1, True),
        ([(10, 10, 10), (10, 10, 10), (200, 30, 30)], 1, True),
        ([(200, 30, 30)] * 3, 3, False),
    ],
)
def test_colours_that_a_grey_model_loses_are_warned_of(
    colors: list[tuple[int, int, int]], channels: int, warned: bool, tmp_path: Path
) -> None:
    for number, color in enumerate(colors):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{number}.png")
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "held out.jpg")
    data = {"source": "folder", "path": f"{tmp_path}/*.png", "heldout_path": f"{tmp_path}/held out.jpg"}
    config = RunConfig.model_validate({"model": {"preset": "tiny", "image_channels": channels}, "data": data})
    model = build_autoencoder(config.model, seed=0, resolution=32)
    said = describe_run(config, config.data.open(), model, PixelFormat.picture(channels))
    advice = "add --model.image_channels 3, or take a recipe for photographs, --config kl-photos"
    assert (advice in said) == warned
