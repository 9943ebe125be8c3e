"""Every recipe, shrunken to run on a CPU in a second, goes through preflight and two updates to a model directory."""

import math
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from latent_ae.config import ModelConfig, differences, load_yaml
from latent_ae.models import PRESETS, build_autoencoder, load_autoencoder
from latent_ae.training.build import weights_at
from latent_ae.training.settings import RunConfig, parse_run, resolved
from tests.program.running import ROOT, metrics

RECIPES = ROOT / "train" / "configs"
NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))

FREE = (
    *("name", "output_dir", "model.init_from", "model.block_out_channels", "model.latent_channels"),
    *("model.layers_per_block", "model.norm_num_groups", "bottleneck.codebook_size"),
    *("data.source", "data.path", "data.heldout_share", "data.resolution", "data.workers"),
    "data.pages",  # of files alone
    *("loss.perceptual", "adversarial.layers", "adversarial.width"),
    *("adversarial.start_step", "adversarial.warmup_steps", "train.steps", "train.batch_size"),
    *("train.warmup_steps", "train.mixed_precision", "train.log_every_steps", "train.tracker"),
    *("evaluation.max_images", "evaluation.size", "evaluation.perceptual", "evaluation.fid"),
    "evaluation.latent_images",
)
"""what may differ between a recipe and what is trained here; all else is the recipe's own"""


def recipe(name: str) -> RunConfig:
    path = ["--data.path", "images"] if load_yaml(RECIPES / f"{name}.yaml")["data"]["source"] == "folder" else []
    return parse_run(["--config", name, *path], RECIPES).config


def smaller(config: RunConfig) -> dict[str, Any]:
    """The settings that make a recipe small, of those in FREE. A decoder's fine-tuning starts from `tiny_vae`."""
    changes: dict[str, Any] = {
        "data.source": "photos" if config.data.source == "folder" else config.data.source,
        "data.resolution": min(config.data.resolution, 32),
        "data.workers": 0,
        "train.steps": 2,
        "train.batch_size": 4,
        "train.warmup_steps": min(config.train.warmup_steps, 1),
        "train.mixed_precision": "no",
        "train.log_every_steps": 1,
        "train.tracker": "none",
        "evaluation.max_images": 4,
        "evaluation.latent_images": 4,
        "evaluation.size": 32,
        "evaluation.fid": "false",
    }
    for section in ("loss", "evaluation"):
        if getattr(config, section).perceptual in ("vgg", "alex", "squeeze"):
            changes[f"{section}.perceptual"] = "random_features"
    if config.adversarial.loss != "none":
        # Both sides make an update within the two.
        changes |= {"adversarial.layers": 1, "adversarial.width": 8}
        for name in ("start_step", "warmup_steps"):
            changes[f"adversarial.{name}"] = min(getattr(config.adversarial, name), 1)
    if (getattr(config.bottleneck, "codebook_size", None) or 0) > 256:
        changes["bottleneck.codebook_size"] = 64
    if config.model.preset is not None:
        narrow = narrower({**PRESETS[config.model.preset], **config.model.architecture_changes()})
        changes |= {f"model.{name}": value for name, value in narrow.items()}
    return changes


def narrower(architecture: dict[str, Any]) -> dict[str, Any]:
    """The changes that make a wide architecture narrow."""
    widths = architecture["block_out_channels"]
    if max(widths) <= 128:
        return {}
    return {
        "block_out_channels": tuple(width // 16 for width in widths),
        "layers_per_block": 1,
        "latent_channels": min(architecture["latent_channels"], 16),
        "norm_num_groups": 4,
    }


@pytest.fixture(scope="module")
def tiny_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow VAE of Stable Diffusion's factor and latent channels."""
    folder = tmp_path_factory.mktemp("vae")
    config = ModelConfig(preset="sd", **narrower(PRESETS["sd"]))
    build_autoencoder(config, seed=0, resolution=32).save_pretrained(folder)
    return folder


def command(name: str, folder: Path, tiny_vae: Path) -> list[str]:
    config = recipe(name)
    changes = smaller(config)
    if config.model.init_from is not None:
        changes["model.init_from"] = tiny_vae
    words = ["--config", name, "--output_dir", str(folder), "--name", "run"]
    for path, value in changes.items():
        words += [f"--{path}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


@pytest.mark.parametrize("name", NAMES)
def test_all_but_its_size_is_the_recipes_own(name: str, tmp_path: Path, tiny_vae: Path) -> None:
    trained = parse_run(command(name, tmp_path, tiny_vae), RECIPES).config
    changed = {line.split(":")[0] for line in differences(recipe(name), trained)}
    assert changed - set(FREE) == set()


@pytest.fixture
def fewer_start_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for shrunken models to start from."""
    monkeypatch.setattr("latent_ae.training.build._START_SAMPLES", 64)


def weighted_terms(config: RunConfig) -> set[str]:
    """The terms that metrics.jsonl owes the weights of a recipe."""
    weights = weights_at(None, resolved(config, precision="no", device_type="cpu").loss)
    terms = {"reconstruction"} | {term for term, weight in weights.terms.items() if weight}
    if config.adversarial.loss != "none":
        terms |= {"adversarial", "adversarial_weight", "discriminator", "discriminator_grad_norm"}
        terms |= {term for term in ("lecam", "r1") if getattr(config.adversarial, f"{term}_weight")}
    return terms


@pytest.mark.slow  # a run for every recipe
@pytest.mark.usefixtures("fewer_start_crops")
@pytest.mark.parametrize("name", NAMES)
def test_two_updates_of_a_recipe(
    name: str, main, tmp_path: Path, tiny_vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe(name)
    assert main(command(name, tmp_path, tiny_vae)) == 0
    assert "gradient norm" in capsys.readouterr().out
    lines = metrics(tmp_path)
    assert len(lines) == 2
    assert {term for line in lines for term in line} >= weighted_terms(config)
    assert all(value is not None and math.isfinite(value) for line in lines for value in line.values()), lines
    model = getattr(diffusers, config.bottleneck.stock_class).from_pretrained(tmp_path / "run" / "model")
    assert model.config["scaling_factor"] > 0
    if config.model.trained is not None:
        assert config.model.trained == ("decoder",)
        before = load_autoencoder(str(tiny_vae)).state_dict()
        moved = {key for key, tensor in model.state_dict().items() if not torch.equal(tensor, before[key])}
        assert {key.split(".")[0] for key in moved} == {"decoder", "post_quant_conv"}


def test_the_document_names_every_recipe_and_no_other() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.split("\n## Recipes\n")[1].split("\n## ")[0]
    first_column = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = [name for cell in first_column for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(named) == NAMES
