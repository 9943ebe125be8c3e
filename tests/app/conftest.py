"""Tiny models, the service over them, and the app as it runs: in this process, on a free port."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from httpx._config import DEFAULT_TIMEOUT_CONFIG

from latent_ae.app import gradio_settings, storage
from latent_ae.app.options import ServerOptions
from latent_ae.evaluation.metrics.latents import LatentStatistics
from latent_ae.inference import Codec
from latent_ae.models import Autoencoder
from latent_ae.models.parts import encoder_identity
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service

if TYPE_CHECKING:
    from latent_ae.app.launch import Running

for step in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, step, 60.0)  # of 5 seconds a busy machine may take more

ARCHITECTURE = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 12, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": 32,
}


class TinyModels(NamedTuple):
    """Model directories: factor 4, RGB."""

    kl: Path
    vq: Path


def save_tiny(folder: Path, model: Autoencoder, seed: int) -> Path:
    """A model directory in which no two tensors are alike; beside a KL model lies what a run measures."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    if isinstance(model, AutoencoderKL):
        statistics = LatentStatistics()
        statistics.update(torch.randn(2, 4, 8, 8, generator=generator), torch.full((2, 4, 8, 8), -3.0))
        stats = {"schema": 1, "encoder_identity": encoder_identity(model), **statistics.to_dict()}
        (folder / "latent_stats.json").write_text(json.dumps(stats), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Saved models, as `--model` takes them."""
    folder = tmp_path_factory.mktemp("models")
    kl = AutoencoderKL(**ARCHITECTURE, latent_channels=4, scaling_factor=0.7, shift_factor=0.1)
    vq = VQModel(**ARCHITECTURE, latent_channels=3, num_vq_embeddings=32, vq_embed_dim=3)
    return TinyModels(save_tiny(folder / "tiny-kl", kl, 1), save_tiny(folder / "tiny-vq", vq, 2))


def load_service(models: TinyModels, limits: ServiceLimits) -> Service:
    """The models in one precision, so that what the server answers can be compared to the last bit."""
    return Service.load([str(model) for model in models], limits=limits, precision="exact", perceptual=None)


@pytest.fixture(scope="session")
def service(tiny_models: TinyModels) -> Iterator[Service]:
    """The service over both models: tiny-kl, the default, and tiny-vq."""
    service = load_service(tiny_models, ServiceLimits(upload_bytes=1_000_000, pixels=512 * 512))
    yield service
    service.close()


@pytest.fixture(scope="session")
def codecs(tiny_models: TinyModels) -> dict[str, Codec]:
    """The same models without a service, to compare with."""
    return {path.name: Codec.load(str(path), precision="exact") for path in tiny_models}


@pytest.fixture(scope="session")
def gradio_folder() -> Iterator[Path]:
    """Gradio's environment as app.py makes it, and where its files lie."""
    before = {name: value for name, value in os.environ.items() if name.startswith("GRADIO_")}
    with storage.private_folder() as folder:
        gradio_settings.set_environment(folder)
        yield folder
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(before)


@contextmanager
def served(service: Service, *, examples: Sequence[Path] = (), **options: Any) -> Iterator["Running"]:
    """The app over a service, which stays open. Needs `gradio_folder`, before which Gradio must not be imported."""
    from latent_ae.app.launch import launch
    from latent_ae.app.page import create_demo
    from latent_ae.app.tabs.example_results import ExampleResults

    demo = create_demo(service, examples=ExampleResults(service, examples))
    running = launch(demo, service, ServerOptions(port=0, **options))
    try:
        yield running
    finally:
        running.demo.close(verbose=False)


@pytest.fixture(scope="session")
def server(service: Service, gradio_folder: Path) -> Iterator[str]:
    """The address of the running app, as in http://127.0.0.1:40123/."""
    with served(service) as running:
        yield running.url
