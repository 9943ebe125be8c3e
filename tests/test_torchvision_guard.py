"""A torchvision whose compiled operators do not load must not take the program with it.

Every test runs in a process of its own, with a torchvision in front of the installed one whose `_C.so` is garbage: that
is how a torchvision built for another torch looks, and it makes the tests the same on every machine.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from latent_ae import torchvision_guard
from tests.program.running import PYTHON, ROOT, arguments, environment, launch

pytestmark = pytest.mark.slow  # imports everything in new processes


GUARD = Path(torchvision_guard.__file__)
LOAD_GUARD = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("guard", {str(GUARD)!r})
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)
"""
"""the guard alone: importing the package would call it"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for PYTHONPATH with a torchvision whose operators do not load."""
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    package = tmp_path_factory.mktemp("broken") / "torchvision"
    package.mkdir()
    for entry in Path(spec.origin).parent.iterdir():
        if not entry.name.startswith(("_C", "__pycache__")):
            (package / entry.name).symlink_to(entry)
    (package / "_C.so").write_bytes(b"not a library")
    return str(package.parent)


def python(code: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, env=environment(**changes), capture_output=True, text=True, timeout=120)


def test_without_the_guard_it_does_not_import(broken: str) -> None:
    run = python("import torchvision", PYTHONPATH=broken)
    assert run.returncode != 0
    assert "operator torchvision::nms does not exist" in run.stderr


def test_with_the_guard_everything_imports(broken: str) -> None:
    run = python(
        "import latent_ae, lpips, torchmetrics\n"
        "from diffusers import AutoencoderKL\n"
        "import torch, torchvision\n"
        "print(torchvision.__file__)\n"
        "try:\n"
        "    torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)\n"
        "except NotImplementedError:\n"
        "    print('refused')\n",
        PYTHONPATH=broken,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"{broken}/torchvision/__init__.py", "refused"]


def test_it_declares_the_operators_once(broken: str) -> None:
    run = python(
        LOAD_GUARD + "print(hasattr(torch.ops.torchvision, 'nms'), guard.make_torchvision_importable(),"
        " hasattr(torch.ops.torchvision, 'nms'), guard.make_torchvision_importable())",
        PYTHONPATH=broken,
    )
    assert run.stdout.split() == ["False", "True", "True", "False"], run.stderr


def test_operators_that_are_there_are_left_alone(broken: str) -> None:
    run = python(
        LOAD_GUARD + "library = torch.library.Library('torchvision', 'DEF')\n"
        "library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
        "print(guard.make_torchvision_importable())",
        PYTHONPATH=broken,
    )
    assert run.stdout.split() == ["False"], run.stderr


def test_no_torchvision_needs_no_guard() -> None:
    run = python(
        LOAD_GUARD + "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'torchvision' else found(name)\n"
        "print(guard.make_torchvision_importable(), hasattr(torch.ops.torchvision, 'nms'))"
    )
    assert run.stdout.split() == ["False", "False"], run.stderr


def test_the_programs_run(broken: str, tmp_path: Path) -> None:
    path = os.pathsep.join([broken, str(ROOT)])
    run = launch(arguments(tmp_path, 2), PYTHON, PYTHONPATH=path)
    assert run.returncode == 0, run.stderr
    model, report = tmp_path / "run" / "model", tmp_path / "report.json"
    options = ["--data.source", "digits", "--evaluation.max_images", "4", "--json", str(report)]
    command = [sys.executable, "-m", "latent_ae.cli", "evaluate", str(model), *options]
    evaluate = subprocess.run(
        command, check=False, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=120
    )
    assert evaluate.returncode == 0, evaluate.stderr
    assert json.loads(report.read_text())["images"] == 4
