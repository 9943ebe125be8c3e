"""Tiny models and a folder of images, for the tests of this room."""

import shutil
from pathlib import Path

import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from tests.data.images import noise_image
from tests.latent_dataset.made import make, settings

NAMES = ["cat/a.png", "cat/b.png", "cat/c.png", "dog/a.png", "dog/b.png", "dog/c.png", "dog/d.png", "e.png", "f.png"]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `kl`, `other` (another encoder), `certain` (no posterior) and `vq`, all of factor 2 and grey."""
    folder = tmp_path_factory.mktemp("models")
    config = ModelConfig(preset="tiny")
    for name, seed in (("kl", 0), ("other", 1)):
        build_autoencoder(config, seed=seed, resolution=16).save_pretrained(folder / name)
    codebook = VQConfig(codebook_size=32, code_channels=2)
    build_autoencoder(config, codebook, seed=0, resolution=16).save_pretrained(folder / "vq")
    certain = build_autoencoder(config, seed=2, resolution=16)
    with torch.no_grad():
        certain.quant_conv.weight[2:] = 0
        certain.quant_conv.bias[2:] = -30
    certain.save_pretrained(folder / "certain")
    return folder


@pytest.fixture(scope="session")
def originals(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pictures` and their `latents`, not to be changed."""
    folder = tmp_path_factory.mktemp("originals")
    for seed, name in enumerate(NAMES):
        file = folder / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        size = {"width": 13, "height": 11} if name == "dog/c.png" else {}
        noise_image(seed, **size).save(file)
    (folder / "pictures" / "cat" / "b.txt").write_text("a grey noise\n")
    make(settings(models / "kl", folder / "latents", path=folder / "pictures"))
    return folder


@pytest.fixture
def pictures(originals: Path, tmp_path: Path) -> Path:
    """Nine noise images in three folders, 20 x 16 pixels but for one of 13 x 11; one of them has a caption."""
    return shutil.copytree(originals / "pictures", tmp_path / "pictures")


@pytest.fixture
def latents(originals: Path, pictures: Path, tmp_path: Path) -> Path:
    """The pictures' latents, in three shards."""
    folder = shutil.copytree(originals / "latents", tmp_path / "latents")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(originals / "pictures"), str(pictures)))
    return folder
