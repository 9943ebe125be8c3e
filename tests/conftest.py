"""Shared by all tests: no network, few threads, tiny real models."""

import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, and tiny models gain nothing from more
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

import latent_ae  # noqa: F401  # makes torchvision importable before anything imports it
from latent_ae.config import ModelConfig
from latent_ae.evaluation.perceptual import build_perceptual
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.kl import KLBottleneck
from latent_ae.models.trainable import TrainableAutoencoder
from latent_ae.training.losses import RECONSTRUCTION
from latent_ae.training.objective import Objective

# A shell starts what runs in its background deaf to Ctrl-C, and tests send that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where cores are busy


LONGEST = (
    *(
        "training/test_compiled.py",
        "export/graphs",
        "export/test_recipes.py",
        "program/test_encode_dataset.py",
        "program/test_ranks.py",
    ),
    *("app/browser", "app/program", "inference/test_memory.py", "program/test_signals.py", "program/test_resume.py"),
    *("program/test_train_prior.py", "program/test_train_hierarchy_prior.py", "program/test_streams.py"),
    "test_torchvision_guard.py",
)
"""groups of tests that take long, which go first: one at the end would be waited for"""
SLOW = ("app", "export", "program")
"""folders whose tests are all slow"""


def pytest_configure(config: pytest.Config) -> None:
    """Let xdist take the groups in the order in which they come, not by their number of tests."""
    config.option.loadscopereorder = False


def group_of(file: Path) -> str:
    """A file's tests stay in one process, as what its fixtures made does; some share that over several files."""
    place = file.relative_to(Path(__file__).parent)
    if place.parent.name == "browser":
        return place.parent.as_posix()
    if place.as_posix() in ("export/test_contract.py", "export/test_graphs.py"):  # converting takes long
        return "export/graphs"
    if place.as_posix() in ("app/test_app.py", "app/test_load.py"):  # the app is imported once for both
        return "app/program"
    return place.as_posix()


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Groups by themselves: pytest 9.2 ignores what xdist 3.8 writes into the names of tests for its `loadgroup`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(config.rootpath / nodeid.split("::", maxsplit=1)[0])

    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups first; whole programs, servers and exports are slow, if not each by itself."""
    order = {group: place for place, group in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(group_of(item.path), len(LONGEST)))
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in SLOW:
            item.add_marker(pytest.mark.slow)


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
