"""What app.py does before and after it serves, and the parts that it is made of."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from latent_ae.app import gradio_settings
from latent_ae.app.options import ServerOptions
from latent_ae.app.serve import model_line
from latent_ae.cli import serve as app
from latent_ae.cli.serve import newest_model
from latent_ae.errors import UserError
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service
from latent_ae.shipped import DEFAULT, shipped_models
from tests.app.conftest import TinyModels
from tests.app.program import running, started


@pytest.mark.slow
@pytest.mark.parametrize(("number", "start"), [(signal.SIGTERM, started), (signal.SIGINT, running)])
def test_the_program_serves_and_a_signal_ends_it_without_a_trace(
    tiny_models: TinyModels, tmp_path: Path, number: signal.Signals, start: Callable[..., AbstractContextManager[Any]]
) -> None:
    with start("--model", tiny_models.kl, "--model", tiny_models.vq, cwd=tmp_path) as (process, url):
        assert httpx.get(f"{url}readyz").text == "ready\n"
        assert "latent-ae" in httpx.get(url).text
        folders = list(tmp_path.glob("latent-ae-*"))
        assert [folder.stat().st_mode & 0o777 for folder in folders] == [0o700]
        # A page that is open, as a browser keeps it.
        with httpx.stream("GET", f"{url}gradio_api/heartbeat/abc", timeout=60) as page:
            next(page.iter_text())
            process.send_signal(number)
            _, stderr = process.communicate(timeout=100)
    assert (process.returncode, stderr) == (0, "")
    assert list(tmp_path.glob("latent-ae-*")) == []


@pytest.mark.slow
def test_who_waits_when_the_server_ends_is_told_so(tiny_models: TinyModels, tmp_path: Path) -> None:
    arguments = ("--model", tiny_models.kl, "--pixels", 4096 * 4096, "--samples", 400)
    with running(*arguments, cwd=tmp_path) as (process, url):
        begun = httpx.post(
            f"{url}gradio_api/call/sample", json={"data": [None, 200, 0, 1.0, 256, "normal", None, None, None]}
        ).json()
        with httpx.stream("GET", f"{url}gradio_api/call/sample/{begun['event_id']}", timeout=100) as answer:
            process.send_signal(signal.SIGTERM)  # its headers are there: it waits
            assert "shutting_down: " in answer.read().decode()
        assert process.wait(100) == 0


@pytest.mark.slow
def test_without_a_model_the_newest_finished_run_is_served(tiny_models: TinyModels, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "model").symlink_to(tiny_models.vq)
    with running(cwd=tmp_path) as (_, url):
        begun = httpx.post(f"{url}gradio_api/call/models", json={"data": []}).json()
        said = httpx.get(f"{url}gradio_api/call/models/{begun['event_id']}").text
    assert 0 < said.index('"mine"') < said.index(f'"{DEFAULT}"')


def test_without_a_model_and_a_run_those_of_the_package_are_served(tmp_path: Path) -> None:
    assert app.default_models(tmp_path / "runs") == list(shipped_models())


def test_without_its_extra_it_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("latent_ae.app.serve.find_spec", lambda name: None)
    with kept_signals():
        assert app.main(["--model", DEFAULT]) == 2
    assert capsys.readouterr().err == (
        "error: the app needs gradio and prometheus_client: pip install 'latent-ae[app]'\n"
    )


def test_what_is_wrong_with_the_accounts_ends_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with kept_signals():
        assert app.main(["--auth-file", str(tmp_path / "accounts"), "--model", DEFAULT]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_at_once() -> None:
    from latent_ae.app.launch import _free_port

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}.*--port"):
            _free_port("127.0.0.1", port)
    assert _free_port("127.0.0.1", 0) > 0


def test_the_line_of_a_model_says_where_it_runs(service: Service) -> None:
    assert model_line(service.models()[0]).endswith("encoder in exact, decoder in exact, on cpu")


def test_every_setting_is_an_option_and_what_is_not_given_has_its_default() -> None:
    names = [field.name for kind in (ServerOptions, ServiceLimits) for field in fields(kind) if field.name != "auth"]
    given = vars(app.parser().parse_args([]))
    assert not given.keys() & set(names)
    numbers = [name for name in names if name not in ("host", "root_path", "allow_host", "trusted_proxy", "mcp")]
    words = [word for name in numbers for word in (f"--{name.replace('_', '-')}", "7")]
    given = vars(app.parser().parse_args([*words, "--mcp", "--allow-host", "a", "--allow-host", "b"]))
    assert [given[name] for name in numbers] == [7] * len(numbers)
    assert (given["mcp"], given["allow_host"]) == (True, ["a", "b"])
    with pytest.raises(SystemExit):
        app.parser().parse_args(["--queue", "0"])


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ((), "the best, tiles of None"),
        (("--device", "cuda:1"), "cuda:1, tiles of None"),
        (("--tile", "512"), "the best, tiles of 512"),
    ],
)
def test_models_run_on_the_accelerator_that_is_there_or_where_they_are_told_to(
    given: tuple[str, ...], taken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, device: object, tile: object, **__: object) -> None:
        raise UserError(f"loaded on {device}, tiles of {tile}")

    monkeypatch.setattr(gradio_settings, "set_environment", lambda folder: None)
    monkeypatch.setattr("latent_ae.inference.device_named", lambda name: name or "the best")
    monkeypatch.setattr("latent_ae.service.service.Service.load", load)
    with kept_signals():
        assert app.main(["--model", DEFAULT, *given]) == 2
    assert capsys.readouterr().err == f"error: loaded on {taken}\n"


def test_the_newest_finished_run_is_the_one_whose_model_was_written_last(tmp_path: Path) -> None:
    assert newest_model(tmp_path / "runs") is None
    for name, written in (("old", 100), ("new", 300), ("middle", 200), ("cut", 400), ("without_weights", 500)):
        model = tmp_path / "runs" / name / "model"
        model.mkdir(parents=True)
        weights = safetensors.torch.save({"weight": torch.zeros(2)})
        if name != "without_weights":
            (model / "diffusion_pytorch_model.safetensors").write_bytes(weights[:-1] if name == "cut" else weights)
        (model / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
        os.utime(model / "config.json", (written, written))
    (tmp_path / "runs" / "unfinished" / "model").mkdir(parents=True)
    assert newest_model(tmp_path / "runs") == tmp_path / "runs" / "new" / "model"


def test_settings_of_gradio_from_outside_have_no_effect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment = {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True", "PATH": "/bin"}
    monkeypatch.setattr(os, "environ", environment)
    gradio_settings.set_environment(tmp_path)
    assert environment["GRADIO_TEMP_DIR"] == str(tmp_path)
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["PATH"] == "/bin"
    assert not environment.keys() & {"GRADIO_ALLOWED_PATHS", "GRADIO_SHARE"}


@contextmanager
def kept_signals() -> Iterator[None]:
    """main() takes the signals of the process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
