"""The programs import what they use; what waits can still be used, and is then what it always is."""

import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path

import pytest
from diffusers import AutoencoderKL
from PIL import Image

from latent_ae import deferred_imports, module_loaders
from tests.program.running import environment

ROOT = Path(__file__).parent.parent
NOT_NEEDED = ("torch._dynamo", "transformers", "scipy.special", "datasets", "sklearn", "torchvision", "lpips")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that is deferred: its code counts how often it runs, and it has a module that does not need it."""
    folder = tmp_path / "waiting"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import builtins\nbuiltins.runs += 1\nfrom waiting.part import PART\nWHOLE = 1\n"
    )
    (folder / "part.py").write_text("PART = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.runs", 0, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(module_loaders, "_loaders", {})
    module_loaders.load_by({"waiting": deferred_imports._DeferredPackage})
    yield "waiting"
    for name in [name for name in sys.modules if name.partition(".")[0] == "waiting"]:
        del sys.modules[name]


def runs() -> int:
    import builtins

    return builtins.runs  # type: ignore[attr-defined]


def test_a_module_of_a_deferred_package_is_imported_without_it(package: str) -> None:
    assert import_module("waiting.part").PART == 2
    assert runs() == 0


def test_a_name_runs_the_package_once(package: str) -> None:
    module = import_module(package)
    assert runs() == 0
    assert (module.WHOLE, module.PART, runs()) == (1, 2, 1)
    from waiting import WHOLE  # type: ignore[import-not-found]

    assert (WHOLE, runs()) == (1, 1)


def test_a_name_that_is_missing(package: str) -> None:
    module = import_module(package)
    with pytest.raises(AttributeError, match="module 'waiting' has no attribute 'nothing'"):
        assert module.nothing
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from waiting import nothing  # noqa: F401
    assert runs() == 1


def test_looking_at_all_modules_runs_nothing(package: str) -> None:
    import_module(package)
    assert [module for module in list(sys.modules.values()) if getattr(module, "__warningregistry__", None) == 1] == []
    assert runs() == 0


def test_an_error_in_a_package_is_raised_where_it_is_used(package: str) -> None:
    module = import_module(package)
    (Path(str(module.__file__)).parent / "part.py").unlink()
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match=r"waiting\.part"):
            assert module.WHOLE


def test_all_threads_get_the_whole_package(package: str) -> None:
    module, found = import_module(package), []
    threads = [threading.Thread(target=lambda: found.append((module.PART, module.WHOLE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, runs()) == ([(2, 1)] * 8, 1)


PROGRAMS = """
import contextlib, io, pathlib, runpy, sys
import latent_ae
assert not any("Deferred" in str(each) for each in latent_ae.module_loaders._loaders.values())
root, folder, *names = sys.argv[1:]

def imported():
    return [name for name in names if sys.modules.get(name) is not None]

from latent_ae.cli import program
sys.argv = ["latent-ae", "encode", f"{folder}/image.png", "--model", folder, "-o", f"{folder}/latents"]
assert program() == 0
print("encode", *imported())

for name in ("train", "sweep", "encode_dataset", "train_prior"):
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(f"{root}/train/{name}.py", run_name="__main__")
    assert "usage: " in said.getvalue()
print("help", *imported())

print("pandas", "pandas" in sys.modules)
from latent_ae.app import gradio_settings
gradio_settings.set_environment(pathlib.Path.cwd())
import latent_ae.app.launch, latent_ae.app.log, latent_ae.app.tabs.examples
from latent_ae.app.page import create_demo
from latent_ae.service.service import Service
service = Service.load([folder])
create_demo(service)
service.close()
print("app", *imported())

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets import UNet2DModel
import scipy.stats
assert scipy.stats.beta.ppf(0.5, 1, 1) == 0.5
graphs = []
def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward
attention = Attention(8, heads=1, dim_head=8).eval()
values = torch.randn(1, 4, 8)
compiled = torch.compile(attention, backend=backend)
with torch.no_grad():
    assert torch.equal(compiled(values), attention(values))
import torch._dynamo.trace_rules
assert len(graphs) == 1 and id(Attention) in torch._dynamo.trace_rules._allowed_callable_ids
print("later", *imported())
"""
"""what a process of programs has imported after each of them, and what can be used after all"""


@pytest.mark.slow  # a new process
def test_the_programs_import_what_they_use_and_the_rest_can_be_used_later(tmp_path: Path) -> None:
    """The model has attention, whose memory is predicted by other operations than that of convolutions."""
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    Image.new("RGB", (24, 16), "teal").save(tmp_path / "image.png")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", PROGRAMS, str(ROOT), str(tmp_path), *NOT_NEEDED],
        cwd=tmp_path,
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "latents" / "image.safetensors").is_file()
    said = [line for line in run.stdout.splitlines() if line.split()[0] in ("encode", "help", "pandas", "app", "later")]
    assert said == ["encode", "help", "pandas False", "app", "later torch._dynamo scipy.special"]
