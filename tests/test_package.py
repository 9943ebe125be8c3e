"""What is installed: the wheel's files, and dependencies that are the imports."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from PIL import Image

from latent_ae import __version__
from tests.program.running import arguments

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

NOT_IMPORTED = {
    "tensorboard",  # torch.utils.tensorboard imports it
    "scikit-image",  # its photographs are read as files
    "torchvision",  # lpips imports it
    "wandb",
    "torch-fidelity",  # torchmetrics imports it
    "mcp",  # gradio imports it
}
"""what is declared though no module imports it"""
OPTIONAL = {"wandb", "onnx", "onnxscript", "onnxruntime", "openvino"} | {
    *("imagecodecs", "pydicom", "nibabel", "openexr", "pillow-heif", "pillow-jxl-plugin")
}
"""what modules import where it is needed, and name where it is missing"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(folder / f"latent_ae-{__version__}-py3-none-any.whl") as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow  # builds
def test_the_wheel_holds_the_package_with_scripts_and_recipes_and_nothing_else(wheel: Path) -> None:
    def files(folder: Path) -> set[str]:
        return {
            path.relative_to(folder).as_posix()
            for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

    assert files(wheel / "latent_ae") == {
        *files(ROOT / "latent_ae"),
        *(f"train/{name}" for name in files(ROOT / "train")),
    }
    assert "py.typed" in files(wheel / "latent_ae")
    assert {path.name for path in wheel.iterdir()} == {"latent_ae", f"latent_ae-{__version__}.dist-info"}


INSTALLED = """
import sys
import latent_ae
from latent_ae.cli import main
assert main(["train", *sys.argv[1:]]) == 0
assert main(["encode", "digit.png", "--model", "run/model", "-o", "latents"]) == 0
vae = latent_ae.load("run/model")
latents = latent_ae.Latents.load("latents/digit.safetensors")
assert bool((vae.encode("digit.png").tensor == latents.tensor).all())
print(latent_ae.__file__, vae.decode(latents).size)
"""


@pytest.mark.slow  # a new process
def test_an_installed_package_trains_from_its_recipes_encodes_and_is_imported(wheel: Path, tmp_path: Path) -> None:
    """From a folder that holds nothing of the checkout."""
    Image.new("L", (20, 12), 128).save(tmp_path / "digit.png")
    run = subprocess.run(
        [sys.executable, "-P", "-c", INSTALLED, *arguments(tmp_path, steps=3)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == f"{wheel}/latent_ae/__init__.py (20, 12)"


def test_every_package_that_is_imported_is_a_dependency_and_every_dependency_is_imported() -> None:
    everywhere = imported([*(ROOT / "train").rglob("*.py"), *outside_of_app()])
    app = imported((ROOT / "latent_ae" / "app").rglob("*.py"))
    needed, extra = names(PROJECT["dependencies"]), names(EXTRAS["app"])
    assert everywhere - OPTIONAL == needed - NOT_IMPORTED
    assert app - needed == extra
    assert everywhere & OPTIONAL <= {name for group in EXTRAS.values() for name in names(group)}


def outside_of_app() -> list[Path]:
    package = ROOT / "latent_ae"
    return [path for path in package.rglob("*.py") if package / "app" not in path.parents]


def imported(files: Iterable[Path]) -> set[str]:
    """The distributions of the packages that files import."""
    modules: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                modules.add(node.module.partition(".")[0])
    known = packages_distributions()
    third_party = modules - sys.stdlib_module_names - {"latent_ae"}
    return {known.get(module, [module])[0].lower().replace("_", "-") for module in third_party}


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_-]+", requirement)[0].lower() for requirement in requirements}  # type: ignore[index]
