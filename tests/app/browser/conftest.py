"""A browser, and the app over a model that was trained for it.

All is closed at this folder's end: Playwright keeps an event loop in the main thread, which other tests need free.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from latent_ae.inference import Codec
from latent_ae.models.hierarchical_prior import HierarchicalPrior
from latent_ae.models.token_prior import build_network
from latent_ae.service.service import Service
from tests.app.conftest import TinyModels, served
from tests.program.running import alone, arguments

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
OPTIONS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]
MISSING = "install chromium (or name it in CHROMIUM) and playwright"
EVIL = "\n<img src=x onerror='window.evil=1'>\n<script>window.evil=1</script>\n[here](javascript:window.evil=1)\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ready = CHROMIUM and importlib.util.find_spec("playwright")
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if not ready:
                item.add_marker(pytest.mark.skip(reason=MISSING))


class App(NamedTuple):
    """A running app and what is inside of it: the models `run`, trained and grey, and `tiny-vq`, RGB."""

    url: str
    service: Service
    digits: tuple[Path, ...]
    """four of its examples: 16x16 grey"""


@pytest.fixture(scope="package")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of some seconds' training, with a card that tries to run scripts."""
    folder = tmp_path_factory.mktemp("trained")
    result = alone(arguments(folder, 20))
    assert result.returncode == 0, result.stderr
    card = folder / "run" / "model" / "README.md"
    card.write_text(card.read_text(encoding="utf-8") + EVIL, encoding="utf-8")
    return card.parent


def learned_prior(model: Path, folder: Path) -> Path:
    """A prior of the model's latents of 16x16 pixels, as it is before it learns."""
    codec = Codec.load(str(model), precision="exact")
    shape = {"channels": codec.latent_channels, "side": 16 // codec.factor}
    HierarchicalPrior(**shape, width=8, encoder_identity=codec.identity).save_pretrained(folder)
    return folder


def prior_of_codes(model: Path, folder: Path) -> Path:
    """A prior of the codes of a VQModel's images of 16x16 pixels and classes 0 and 3, as it is before it learns."""
    codec = Codec.load(str(model), precision="exact")
    size = {"codebook_size": codec.codebook_size, "side": 16 // codec.factor, "classes": (0, 3)}
    build_network(**size, encoder_identity=codec.identity, width=8, depth=1, heads=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="package")
def app(trained_model: Path, tiny_models: TinyModels, gradio_folder: Path) -> Iterator[App]:
    from latent_ae.app.tabs.examples import example_images

    examples = gradio_folder / "browser"
    examples.mkdir()
    digits = example_images(examples, channels=1, side=16)
    models = [str(trained_model), str(tiny_models.vq)]
    priors = [learned_prior(trained_model, examples / "prior"), prior_of_codes(tiny_models.vq, examples / "codes")]
    with (
        Service.load(models, precision="exact", perceptual=None, priors=[*map(str, priors)]) as service,
        served(service, examples=digits) as running,
    ):
        yield App(running.url, service, tuple(digits))


@pytest.fixture(scope="package")
def chromium() -> Iterator["Browser"]:  # noqa: F821 - Playwright may not be installed
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(app: App, chromium: "Browser") -> Iterator[Callable[..., "Visitor"]]:  # noqa: F821
    """Open the page as a new visitor; options are those of a browser context."""
    from tests.app.browser.visitor import Visitor

    contexts = []

    def open_page(**options: object) -> Visitor:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        contexts.append(chromium.new_context(**options))
        return Visitor(contexts[-1].new_page(), app.url)

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def visitor(visit: Callable[..., "Visitor"]) -> "Visitor":  # noqa: F821
    return visit()


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """37 x 21 RGB: sides that no factor divides."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    levels = np.linspace(0, 255, 21 * 37 * 3).reshape(21, 37, 3) + np.random.default_rng(0).normal(0, 20, (21, 37, 3))
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(path)
    return path
