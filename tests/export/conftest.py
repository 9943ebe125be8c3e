"""Tiny models in folders as runs leave them."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import VQModel

from latent_ae.config import ModelConfig
from latent_ae.export import EXPORTERS
from latent_ae.export.exporter import Exported, export
from latent_ae.export.source import ModelSource
from latent_ae.models import Autoencoder, build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.parts import encoder_identity
from tests.cli.conftest import Run, run

__all__ = ["Run", "run"]


def write_model(folder: Path, model: Autoencoder) -> Path:
    """A model directory as a run leaves it: with statistics, a card and its picture."""
    model.save_pretrained(folder)
    statistics = {"schema": 1, "encoder_identity": encoder_identity(model)}
    (folder / "latent_stats.json").write_text(json.dumps(statistics), encoding="utf-8")
    (folder / "README.md").write_text(
        "---\ntags: [vae]\n---\n![reconstructions](reconstructions.png)\n", encoding="utf-8"
    )
    (folder / "reconstructions.png").write_bytes(b"a picture")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    return folder


def spread_codes(model: VQModel) -> None:
    """Codes where the encoder's vectors are, so that images have many of them."""
    noise = torch.rand(1, model.config["in_channels"], 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        vectors = model.encode(noise).latents.movedim(1, -1).flatten(0, -2)
        model.quantize.embedding.weight.copy_(vectors[:: len(vectors) // 32][:32])


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kl` and `other`, of other weights, and `vq`: all grey, of factor 2."""
    folder = tmp_path_factory.mktemp("models")
    for name, seed, kind in (("kl", 0, "kl"), ("other", 1, "kl"), ("vq", 0, "vq")):
        bottleneck = BOTTLENECKS[kind](**({"codebook_size": 32, "code_channels": 3} if kind == "vq" else {}))
        model = build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=seed, resolution=16)
        if kind == "vq":
            spread_codes(model)
        shift = {} if kind == "vq" else {"shift_factor": 0.25}
        model.register_to_config(scaling_factor=0.5, **shift)
        write_model(folder / name, model)
    return folder


@pytest.fixture(scope="session")
def kl(models: Path) -> ModelSource:
    return ModelSource.load(str(models / "kl"))


@pytest.fixture(scope="session")
def vq(models: Path) -> ModelSource:
    return ModelSource.load(str(models / "vq"))


Exports = Callable[[str, str], Exported]


@pytest.fixture(scope="session")
def exports(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """A model of `models` exported to a target by its defaults, once: converting takes seconds. For reading alone."""

    @cache
    def once(name: str, target: str) -> Exported:
        folder = tmp_path_factory.mktemp(f"{name}-{target}")
        return export(ModelSource.load(str(models / name)), place(folder, target), EXPORTERS[target]())

    return once


def place(folder: Path, target: str) -> Path:
    """A name that a target takes."""
    return folder / EXPORTERS[target].out[0]


def left(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())
