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

from latent_ae import deferred_imports
from tests.program.running import environment

ROOT = Path(__file__).parent.parent
NOT_NEEDED = ("torch._dynamo", "transformers", "scipy.special", "pandas", "datasets", "sklearn", "torchvision", "lpips")
NOT_NEEDED_TO_SERVE = tuple(name for name in NOT_NEEDED if name != "pandas")  # Gradio imports it
REPORT = """
import sys
print("imported", *[name for name in sys.argv.pop().split(",") if name in sys.modules])
"""


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
    monkeypatch.setattr(deferred_imports, "PACKAGES", ("waiting",))
    monkeypatch.setattr(sys, "meta_path", [deferred_imports._Finder, *sys.meta_path])
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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With attention, whose memory is predicted by other operations than that of convolutions."""
    folder = tmp_path_factory.mktemp("model")
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(folder)
    Image.new("RGB", (24, 16), "teal").save(folder / "image.png")
    return folder


def python(code: str, *arguments: str, cwd: Path) -> list[str]:
    """The lines that code says in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=environment(PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


USED_LATER = """
import hashlib, torch
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
# torch's own functions are kept out of the compiler that came after them
assert torch.empty(2, 3, device="meta").add(1.0).shape == (2, 3)
"""
ENCODE = f"""
import sys
from latent_ae.cli import program
names = sys.argv.pop()
assert program() == 0
sys.argv.append(names)
{REPORT}
{USED_LATER}
"""


@pytest.mark.slow  # a new process
def test_encode_imports_what_it_uses_and_the_rest_can_be_used_later(model: Path, tmp_path: Path) -> None:
    arguments = ["encode", str(model / "image.png"), "--model", str(model), "-o", str(tmp_path / "latents")]
    assert python(ENCODE, *arguments, ",".join(NOT_NEEDED), cwd=tmp_path)[-1] == "imported"
    assert (tmp_path / "latents" / "image.safetensors").is_file()


SERVE = f"""
import pathlib, sys
from latent_ae.process import own_process
own_process()
from latent_ae.app import gradio_settings
gradio_settings.set_environment(pathlib.Path.cwd())
import latent_ae.app.launch, latent_ae.app.log, latent_ae.app.tabs.examples
from latent_ae.app.page import create_demo
from latent_ae.service.service import Service
service = Service.load([sys.argv.pop(1)])
create_demo(service)
service.close()
{REPORT}
"""


@pytest.mark.slow  # a new process
def test_the_app_imports_what_it_uses(model: Path, tmp_path: Path) -> None:
    assert python(SERVE, str(model), ",".join(NOT_NEEDED_TO_SERVE), cwd=tmp_path)[-1] == "imported"


HELP = f"""
import contextlib, io, runpy, sys
*programs, names = sys.argv[1:]
for program in programs:
    sys.argv = [program, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        runpy.run_path(program, run_name="__main__")
    assert "usage: " in said.getvalue()
sys.argv.append(names)
{REPORT}
"""


@pytest.mark.slow  # a new process
def test_help_of_the_programs_of_training_imports_what_it_uses(tmp_path: Path) -> None:
    programs = [str(ROOT / "train" / f"{name}.py") for name in ("train", "encode_dataset", "train_prior")]
    assert python(HELP, *programs, ",".join(NOT_NEEDED), cwd=tmp_path)[-1] == "imported"


def test_importing_the_library_defers_nothing(tmp_path: Path) -> None:
    code = "import sys, latent_ae\nprint([each for each in sys.meta_path if 'deferred' in str(each)])"
    assert python(code, cwd=tmp_path) == ["[]"]
