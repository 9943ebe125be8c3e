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

from tests.program.forked import PATIENCE
from tests.program.running import ROOT, TRAIN, arguments, environment

pytestmark = pytest.mark.slow  # imports everything in new processes


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


def python(code: str, *given: str, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, *given]
    return subprocess.run(
        command, check=False, env=environment(**changes), capture_output=True, text=True, timeout=PATIENCE
    )


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


CASES = """
import importlib.util, os, sys
import torch
from latent_ae.torchvision_guard import make_torchvision_importable as guard

def once():
    print(hasattr(torch.ops.torchvision, "nms"), guard(), hasattr(torch.ops.torchvision, "nms"), guard())

def there():
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    print(guard())

def absent():
    found = importlib.util.find_spec
    importlib.util.find_spec = lambda name: None if name == "torchvision" else found(name)
    print(guard(), hasattr(torch.ops.torchvision, "nms"))

for case in (once, there, absent):  # each in a process of its own, as operators are a process's
    if not os.fork():
        case()
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_operators_are_declared_once_and_where_they_are_missing(broken: str) -> None:
    run = python(CASES, PYTHONPATH=broken)
    assert run.stdout.splitlines() == ["False True True False", "False", "False False"], run.stderr


PROGRAMS = """
import json, runpy, sys
train, evaluate = json.loads(sys.argv[1])
sys.argv = train
try:
    runpy.run_path(train[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 0
from latent_ae.cli import main
assert main(evaluate) == 0
"""


def test_the_programs_run(broken: str, tmp_path: Path) -> None:
    model, report = tmp_path / "run" / "model", tmp_path / "report.json"
    options = ["--data.source", "digits", "--evaluation.max_images", "4", "--json", str(report)]
    commands = json.dumps([[str(TRAIN), *arguments(tmp_path, 2)], ["evaluate", str(model), *options]])
    run = python(PROGRAMS, commands, PYTHONPATH=os.pathsep.join([broken, str(ROOT)]))
    assert run.returncode == 0, run.stderr
    assert json.loads(report.read_text())["images"] == 4
