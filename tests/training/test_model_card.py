"""The model card: its program runs, its recipe is the recipe, its numbers are the report's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from latent_ae.config import ModelConfig, TrainConfig, validate
from latent_ae.evaluation.report import EvaluationReport, Metric
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.kl import KLLossConfig
from latent_ae.training.model_card import model_card
from latent_ae.training.settings import RunConfig

GREY = PixelFormat.picture(1)
CONFIG = RunConfig(
    name="my-digits",
    output_dir="/home/somebody/runs",
    model=ModelConfig(preset="tiny"),
    loss=KLLossConfig(perceptual="random_features", perceptual_weight=0.25, beta=1e-6),
    train=TrainConfig(steps=1200, betas=(0.9, 0.99)),
)
REPORT = EvaluationReport(
    images=360,
    complete=True,
    protocol={"data": "digits, held-out part", "size_rule": "16x16", "latents": "posterior mode", "pixels": "grey"},
    metrics={
        "psnr": Metric(value=21.123456, unit="dB", protocol="data range 2", images=360),
        "ssim": Metric(value=0.5, unit="", protocol="11x11 window", images=360),
        "ms_ssim": Metric(value=None, unit="", protocol="5 scales", images=0, reason="no image is large enough"),
    },
    color_bias=(0.0123,),
    latents=None,
    codebook=None,
    equivariance=None,
    warnings=("two latent channels are dead",),
)
STATS: dict[str, Any] = {
    "config": {"scaling_factor": 0.75, "shift_factor": -0.125},
    "config_is": "measured",
    "measured": {"scaling_factor": 0.75, "shift_factor": -0.125},
    "images": 1437,
    "split": "digits, training part",
    "encoder_identity": "0123abcd",
}


@pytest.fixture
def card() -> str:
    pictures = ["reconstructions", "draws"]
    return model_card(
        CONFIG,
        REPORT,
        STATS,
        pixels=GREY,
        steps=1200,
        factor=2,
        parameters=12345,
        pictures=pictures,
        made_with="latent_ae 1.2, 2026-01-02",
    )


def block(card: str, language: str) -> str:
    (_, after) = card.split(f"```{language}\n")
    return after.split("\n```")[0]


@pytest.mark.parametrize(
    ("stated", "scaled"),
    [
        ({"scaling_factor": 0.75, "shift_factor": -0.125}, lambda z: (z + 0.125) * 0.75),
        ({"scaling_factor": 0.75, "shift_factor": None}, lambda z: z * 0.75),
        (
            {
                "scaling_factor": 0.75,
                "shift_factor": None,
                "latents_mean": [0.5, -0.5],
                "latents_std": [2.0, 0.25],
            },
            lambda z: (z - torch.tensor([0.5, -0.5])[:, None, None]) / torch.tensor([2, 0.25])[:, None, None] * 0.75,
        ),
    ],
    ids=["shift", "no shift", "by channel"],
)
def test_its_program_takes_pixels_to_scaled_latents_and_back(
    stated: dict[str, Any], scaled: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    model = build_autoencoder(CONFIG.model, seed=0, resolution=16)
    model.register_to_config(**stated)
    with torch.no_grad():  # a posterior so narrow that its draw is its mean
        model.quant_conv.weight[2:] = 0
        model.quant_conv.bias[2:] = -30
    model.save_pretrained(tmp_path)
    written = model_card(
        CONFIG,
        REPORT,
        STATS | {"config": stated},
        pixels=GREY,
        steps=1200,
        factor=2,
        parameters=1,
        pictures=[],
        made_with="latent_ae",
    )
    pixels = torch.rand(1, 1, 16, 16) * 2 - 1
    names = {"pixels": pixels}
    with torch.no_grad():
        exec(block(written, "python").replace("path/to/this/folder", str(tmp_path)), names)
        mode = model.encode(pixels).latent_dist.mode()
        torch.testing.assert_close(names["latents"], scaled(mode), atol=1e-5, rtol=0)
        torch.testing.assert_close(names["pixels"], model.decode(mode).sample, atol=1e-4, rtol=0)


def test_its_recipe_is_the_runs_without_the_places_of_this_machine(card: str) -> None:
    recipe = yaml.safe_load(block(card, "yaml"))
    assert validate(RunConfig, {**recipe, "name": CONFIG.name, "output_dir": CONFIG.output_dir}) == CONFIG
    assert "name" not in recipe
    assert "/home/somebody" not in card


def test_a_source_on_this_machine_is_named_without_its_folders() -> None:
    config = validate(
        RunConfig,
        {
            "model": {"preset": None, "init_from": "/home/somebody/runs/first/model", "trained": ("decoder",)},
            "data": {"source": "folder", "path": "/home/somebody/my pictures"},
            "name": "second",
        },
    )
    written = model_card(
        config, REPORT, STATS, pixels=GREY, steps=1200, factor=2, parameters=1, pictures=[], made_with="latent_ae"
    )
    assert "/home/somebody" not in written
    recipe = yaml.safe_load(block(written, "yaml"))
    assert (recipe["model"]["init_from"], recipe["data"]["path"]) == ("first", "my pictures")


def test_its_head_is_what_the_hub_reads(card: str) -> None:
    _, head, _ = card.split("---\n", 2)
    assert yaml.safe_load(head) == {"library_name": "diffusers", "tags": ["autoencoder", "vae"]}


def test_its_numbers_are_those_of_the_report(card: str) -> None:
    assert "| psnr | 21.123 dB | data range 2 |" in card
    assert "| ssim | 0.5 | 11x11 window |" in card
    assert "| ms_ssim | - (no image is large enough) | 5 scales |" in card
    assert "360 images: digits, held-out part, 16x16; posterior mode;\ngrey." in card
    assert "> **Warning:** two latent channels are dead" in card
    assert "12,345 parameters and a factor of 2" in card
    assert "1,200 steps of 32 images" in card
    assert "`scaling_factor` 0.75 and `shift_factor` -0.125 were measured over\n1437 images" in card
    assert "`0123abcd`" in card
    assert "latent_ae 1.2, 2026-01-02" in card


def test_it_shows_the_pictures_there_are(card: str) -> None:
    assert [line for line in card.splitlines() if line.startswith("![")] == [
        "![reconstructions](reconstructions.png)",
        "![draws](draws.png)",
    ]


def test_what_pixels_mean_is_said_of_numbers_alone(card: str) -> None:
    assert "Pixels are float NCHW in [-1, 1].\n" in card
    pixels = PixelFormat(1, numbers=True, dtype="int16", ranges=((-1000.0, 3000.0),), unit="HU")
    card = model_card(CONFIG, REPORT, STATS, pixels=pixels, steps=1, factor=2, parameters=1, pictures=[], made_with="x")
    assert "in [-1, 1] for 1 channel, int16 in -1000..3000 HU, as `pixel_format.json` says.\n" in card


def test_what_is_left_out_is_said_with_its_reason(card: str) -> None:
    assert "left out" not in card
    report = REPORT.model_copy(update={"left_out": {"in the split test": 1200, "not read as images: .doc (1)": 1}})
    card = model_card(CONFIG, report, STATS, pixels=GREY, steps=1, factor=2, parameters=1, pictures=[], made_with="x")
    expected = "grey. Of what was found, 1,201 left out: 1,200 in the split test; 1 not read as images: .doc (1)."
    assert expected in card
