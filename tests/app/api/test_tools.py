"""The endpoints as tools of language models, through the client that their programs use."""

import asyncio
import base64
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from latent_ae.app import gradio_settings, storage
from latent_ae.app.launch import Running, launch
from latent_ae.app.options import ServerOptions
from latent_ae.app.perimeter.accounts import Accounts
from latent_ae.app.perimeter.guard import tool_bytes
from latent_ae.app.storage import files_under
from latent_ae.cli import serve as app
from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.service.service import Service
from latent_ae.shipped import DEFAULT
from tests.app.api.test_endpoints import ENDPOINTS
from tests.app.conftest import served
from tests.app.pictures import pixels, png, read
from tests.app.test_main import kept_signals

IMAGE = pixels(19, 30)
ROOM_BYTES = 15_000_000


def data_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def tools(service: Service, gradio_folder: Path) -> Iterator[Running]:
    there = sum(Path(file).stat().st_size for file in files_under(gradio_folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_FULL_SECONDS", 3600.0)  # no sweep makes room while a test fills it
        with served(service, mcp=True, stored_bytes=there + ROOM_BYTES) as running:
            yield running
            if client := running.demo.mcp_server_obj._client_instance:  # Gradio leaves it open, and cannot close it
                client.close()


def talk(running: Running, *calls: tuple[str, dict[str, Any]]) -> tuple[list[Any], list[tuple[bool, list[Any]]]]:
    """The tools that a session finds, and what its calls answer one after another: whether in error, and content."""

    async def heard(*_: object) -> None:
        pass

    async def session() -> tuple[list[Any], list[tuple[bool, list[Any]]]]:
        async with (
            streamable_http_client(f"{running.url}gradio_api/mcp/") as (reads, writes, _),
            ClientSession(reads, writes) as client,
        ):
            await client.initialize()
            listed = (await client.list_tools()).tools
            # Without somebody to hear of progress Gradio makes one text of several results.
            answers = [await client.call_tool(*call, progress_callback=heard) for call in calls]
            return listed, [(bool(answer.isError), answer.content) for answer in answers]

    return asyncio.run(asyncio.wait_for(session(), 60))


def test_a_session_finds_the_endpoints_and_is_asked_for_data_uris(tools: Running) -> None:
    listed, _ = talk(tools)
    assert {tool.name for tool in listed} == set(ENDPOINTS)
    encode = next(tool for tool in listed if tool.name == "encode")
    assert encode.inputSchema["properties"]["image"]["format"] == "a data: URI"
    assert encode.inputSchema["required"] == ["image"]
    for tool in listed:
        assert "http" not in tool.model_dump_json()
        assert "upload_file" not in tool.model_dump_json()


def test_tools_answer_and_a_call_that_is_refused_does_not_end_the_session(
    tools: Running, codecs: dict[str, Codec]
) -> None:
    large = data_uri(bytes(tools.demo.max_file_size + 1))
    _, (models, one, two, nobody, again) = talk(
        tools,
        ("models", {}),
        ("encode", {"image": "https://example.com/x.png"}),
        ("encode", {"image": large}),
        ("encode", {"image": data_uri(png(IMAGE)), "model": "nobody"}),
        ("reconstruct", {"image": data_uri(png(IMAGE))}),
    )
    assert not models[0]
    assert "tiny-kl" in models[1][0].text
    assert (one[0], one[1][0].text) == (
        True,
        "bad_request: addresses are not fetched: upload the file; tools send it as a data: URI",
    )
    assert two[0]
    assert two[1][0].text.startswith("too_large: ")
    assert nobody[0]
    assert "unknown_model: there is no model 'nobody'" in nobody[1][0].text
    error, (picture, *_) = again
    assert not error
    assert np.array_equal(read(base64.b64decode(picture.data)), codecs["tiny-kl"].reconstruct([IMAGE])[0])


def post(running: Running, body: object) -> httpx.Response:
    headers = {"Accept": "application/json, text/event-stream"}
    return httpx.post(f"{running.url}gradio_api/mcp/", json=body, headers=headers, timeout=60)


def test_a_request_may_be_as_large_as_its_files(tools: Running) -> None:
    limit = tool_bytes(tools.demo.max_file_size)
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"_meta": {"x": "y" * 2_500_000}}}
    assert len(json.dumps(call)) < limit
    assert tools.demo.mcp_server_obj.manager.asgi_app.max_body_size == limit
    assert post(tools, call).status_code == 200
    call["params"]["_meta"]["x"] *= 2
    assert post(tools, call).status_code == 413


def test_errors_of_the_protocol_stay_as_its_clients_read_them(tools: Running) -> None:
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer = httpx.post(f"{tools.url}gradio_api/mcp/", json=asked, headers={"Accept": "text/html"})
    assert answer.status_code == 406
    assert answer.json()["jsonrpc"] == "2.0"
    assert "error" in answer.json()


def test_the_older_transport_is_not_there(tools: Running) -> None:
    for method, path in (("GET", "sse"), ("POST", "messages/"), ("POST", "messages/?session_id=1")):
        assert httpx.request(method, f"{tools.url}gradio_api/mcp/{path}").status_code == 404


def test_several_calls_at_once_fetch_nothing(tools: Running) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    call["params"] = {"name": "encode", "arguments": {"image": "https://example.com/x.png"}}
    assert post(tools, [call]).status_code == 400


def test_what_tools_send_counts_among_what_is_stored(tools: Running, gradio_folder: Path) -> None:
    """The last, because nothing more is taken afterwards."""
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call"}
    call["params"] = {"name": "encode", "arguments": {"image": data_uri(b"\0" * 900_000)}}
    for _ in range(ROOM_BYTES // 900_000 + 1):
        post(tools, call)
    before = len(files_under(gradio_folder))
    last = post(tools, call).json()
    assert (last["id"], last["result"]["isError"]) == (7, True)
    assert last["result"]["content"][0]["text"].startswith("busy: the server's space for uploads and results is full")
    assert len(files_under(gradio_folder)) == before
    _, (models,) = talk(tools, ("models", {}))
    assert "busy: " in models[1][0].text


# -------------------------------------------------------------------------------------------------------------- start


def test_tools_and_accounts_exclude_each_other(
    service: Service,
    gradio_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from latent_ae.app.page import create_demo

    with pytest.raises(UserError, match="--mcp with --auth-file"):
        launch(create_demo(service), service, ServerOptions(port=0, mcp=True, auth=Accounts({"ann": "secret"})))
    file = tmp_path / "accounts"
    file.touch(mode=0o600)
    file.write_text("ann:secret\n")
    monkeypatch.setattr(gradio_settings, "set_environment", lambda folder: None)
    with kept_signals():  # before a model is loaded
        assert app.main(["--mcp", "--auth-file", str(file), "--model", DEFAULT]) == 2
    assert "error: --mcp with --auth-file: tools cannot be asked for a password" in capsys.readouterr().err


def test_tools_that_cannot_be_offered_are_an_error_and_not_a_server_without_them(
    service: Service, gradio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latent_ae.app.page import create_demo

    # As of a release of the package that lacks what Gradio takes from it.
    monkeypatch.setattr("latent_ae.app.gradio_internals.ToolServer.Server", None)
    demo = create_demo(service)
    with pytest.raises(UserError, match="--mcp: tools cannot be offered"):
        launch(demo, service, ServerOptions(port=0, mcp=True))
    assert not demo.is_running
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'latent-ae\[mcp\]'"):
        launch(demo, service, ServerOptions(port=0, mcp=True))
