"""Shared by all tests: no network, few threads, tiny real models."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and tiny models gain nothing from more
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import latent_ae  # noqa: F401  # makes torchvision importable before anything imports it
from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks import KLBottleneck
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.perceptual import build_perceptual
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.objective import Objective

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are busy


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay in one process, as what its fixtures made does; those of the browser over all their files."""
    for item in items:
        folder = item.path.parent
        group = folder if folder.name == "browser" else item.path
        item.add_marker(pytest.mark.xdist_group(group.relative_to(Path(__file__).parent).as_posix()))


@pytest.fixture(autouse=True)
def _global_random_state_is_left_alone() -> None:
    """Nothing in the project draws from torch's global generator; a test that does would hide that it is needed."""
    torch.manual_seed(0)


def make_objective(reconstruction: str = "l1", free_bits: float = 0.0, *, perceptual: bool = True) -> Objective:
    """A real objective on the tiny preset: 1x16x16 images, 2x8x8 latents."""
    autoencoder = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    return Objective(
        TrainableAutoencoder(autoencoder, KLBottleneck(free_bits)),
        RECONSTRUCTION[reconstruction](),
        build_perceptual("random_features", image_channels=1) if perceptual else None,
    )


@pytest.fixture
def objective() -> Objective:
    return make_objective()
