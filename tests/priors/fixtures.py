"""Latents of a tiny model, made of a few digits."""

from pathlib import Path

import pytest

from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.priors.source import LatentSource, open_latents
from tests.data.images import noise_image
from tests.latent_dataset.made import make, settings


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`kl` and `other`, models of factor 2; `latents` of 10 images of kl in two classes, [2,8,8] each; `vq` and `codes`
    of the same images, [8,8] each.
    """
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("kl", 0), ("other", 1)):
        model = build_autoencoder(ModelConfig(preset="tiny"), seed=seed, resolution=16)
        model.register_to_config(scaling_factor=0.5, shift_factor=0.25)
        model.save_pretrained(folder / name)
    for seed in range(10):
        file = folder / "pictures" / ("cat" if seed % 2 else "dog") / f"{seed}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise_image(seed, 16, 16).save(file)
    make(settings(folder / "kl", folder / "latents", path=folder / "pictures"))
    codebook = VQConfig(codebook_size=32, code_channels=2)
    build_autoencoder(ModelConfig(preset="tiny"), codebook, seed=0, resolution=16).save_pretrained(folder / "vq")
    make(settings(folder / "vq", folder / "codes", path=folder / "pictures"))
    return folder


@pytest.fixture
def source(made: Path) -> LatentSource:
    return open_latents(made / "latents", None, seed=0)


@pytest.fixture
def codes(made: Path) -> LatentSource:
    return open_latents(made / "codes", None, seed=0, codes=True)
