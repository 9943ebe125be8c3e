"""Crafted requests: no file of the server leaves it, no address is fetched, nothing grows without a bound."""

import asyncio
import http.client
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gradio as gr
import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from latent_ae.app.options import ServerOptions
from latent_ae.app.perimeter import guard
from latent_ae.app.perimeter.guard import Guard
from latent_ae.app.storage import files_under
from latent_ae.service.limits import ServiceLimits
from tests.app.pictures import pixels, png, written

SECRET = "canary-3f1c"
UPLOAD_BYTES = 1_000_000
ROOT = Path(__file__).parents[3]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file of the server that nobody uploaded."""
    return written(tmp_path / "canary.png", SECRET.encode() + png(pixels(8, 8)))


def raw(server: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and text of an answer to a path that is sent exactly as it is written here."""
    url = httpx.URL(server)
    connection = http.client.HTTPConnection(url.host, url.port, timeout=60)
    data = json.dumps(body) if body is not None else None
    connection.request(method, path, data, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    try:
        data = response.read()
    except http.client.IncompleteRead as error:  # a stream that ends with an error
        data = error.partial
    connection.close()
    return response.status, data.decode("utf-8", "replace")


def functions(server: str) -> list[dict[str, Any]]:
    """Everything that can be called, on the page or by programs."""
    found = httpx.get(f"{server}config").json()["dependencies"]
    assert {"encode", "decode", "interpolate"} < {function["api_name"] for function in found}
    assert len(found) > 10
    return [function for function in found if function["inputs"]]


def call(server: str, function: dict[str, Any], value: Any, route: str) -> str:
    """All that the server answers to a call whose every input is `value`."""
    data = [value] * len(function["inputs"])
    if route == "queue/join":
        body = {"fn_index": function["id"], "data": data, "session_hash": "abc"}
        status, text = raw(server, "POST", "/gradio_api/queue/join", body)
        return text + (stream(server, "/gradio_api/queue/data?session_hash=abc") if status == 200 else "")
    path = f"/gradio_api/{route}/{function['api_name']}"
    status, text = raw(server, "POST", path, {"data": data, "fn_index": function["id"]})
    if status == 200 and route == "call":
        text += stream(server, f"{path}/{json.loads(text)['event_id']}")
    return text


def stream(server: str, path: str) -> str:
    with httpx.stream("GET", server + path.lstrip("/"), timeout=60) as response:
        return response.read().decode()


CRAFTED = {
    "as an upload": lambda path: {"path": path, "meta": {"_type": "gradio.FileData"}},
    "without meta": lambda path: {"path": path},
    "with broken meta": lambda path: {"path": path, "meta": 7},
    "as a stream": lambda path: {"path": path, "is_stream": True, "meta": {"_type": "gradio.FileData"}},
    "by its address": lambda path: {"path": "x", "url": f"file={path}", "meta": {"_type": "gradio.FileData"}},
    "deep inside": lambda path: [{"a": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}],
    "as text": lambda path: path,
}


ROUTES = ["call", "queue/join", "run"]
# What is not refused at once goes through every function of the page, which takes seconds.
ATTEMPTS = [
    pytest.param(form, route, marks=[pytest.mark.slow] * (form == "as text")) for form in CRAFTED for route in ROUTES
]


@pytest.mark.parametrize(("form", "route"), ATTEMPTS)
def test_no_function_hands_out_a_file_of_the_server(
    server: str, gradio_folder: Path, canary: Path, form: str, route: str
) -> None:
    before = contents(gradio_folder)
    for function in functions(server):
        for file in (canary, ROOT / "pyproject.toml"):
            answer = call(server, function, CRAFTED[form](str(file)), route)
            assert SECRET not in answer
            assert "Traceback" not in answer
    assert not [path for path in contents(gradio_folder) - before if SECRET.encode() in Path(path).read_bytes()]


@pytest.mark.slow
def test_gradio_itself_refuses_what_was_not_uploaded(
    server: str, gradio_folder: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the guard stands Gradio's own check, which is off in an app that is mounted instead of launched."""
    monkeypatch.setattr(guard, "check_files", lambda *_: None)
    before = contents(gradio_folder)
    for function in functions(server):
        for form in ("as an upload", "as a stream"):
            assert SECRET not in call(server, function, CRAFTED[form](str(canary)), "call")
    assert not [path for path in contents(gradio_folder) - before if SECRET.encode() in Path(path).read_bytes()]


def test_no_path_leads_to_a_file_of_the_server(server: str, canary: Path) -> None:
    path = str(canary)
    up = "../" * 12
    for prefix in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/file/", "/static/", "/assets/", "/svelte/"):
        for name in (path, path.lstrip("/"), up + path, up.replace(".", "%2e") + path, up.replace("/", "%2f") + path):
            status, text = raw(server, "GET", prefix + name)
            assert (SECRET in text, status >= 400) == (False, True), prefix + name
    status, text = raw(server, "GET", f"/gradio_api/file={ROOT}/pyproject.toml")
    assert (status, "build-system" in text) == (403, False)


def test_routes_of_gradio_that_nothing_needs_do_not_exist(server: str) -> None:
    for method, path in (
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("GET", "/monitoring/key"),
        ("GET", "/gradio_api/proxy=https://huggingface.co/"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/custom_component/x/client/component/index.js"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/run-history/connect"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/gradio_api/token"),
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
    ):
        assert raw(server, method, path, {} if method == "POST" else None)[0] == 404, path


def test_an_upload_stays_in_its_folder_whatever_it_is_called(server: str, gradio_folder: Path) -> None:
    names = ["../../../evil", "/evil", "..", "a/../../evil", "evil\0.png", "x" * 400]
    for name in names:
        answer = httpx.post(f"{server}gradio_api/upload", files=[("files", (name, b"data"))])
        if answer.status_code == 200:
            assert Path(answer.json()[0]).resolve().is_relative_to(gradio_folder)
    assert not (gradio_folder.parent / "evil").exists()


class Listener(http.server.BaseHTTPRequestHandler):
    """Remembers what it was asked for."""

    seen: ClassVar[list[str]] = []

    def parse_request(self) -> bool:
        self.seen.append(self.raw_requestline.decode("latin-1"))
        return super().parse_request()


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """An address that a server can be sent to."""
    Listener.seen.clear()
    listener = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}/x.png"
    listener.shutdown()
    thread.join()
    listener.server_close()


def test_no_address_is_fetched(server: str, elsewhere: str) -> None:
    for address in (elsewhere, elsewhere.replace("http", "HTTP"), "https://example.com/x.png"):
        file = {"path": address, "url": address, "meta": {"_type": "gradio.FileData"}}
        for function in functions(server):
            for route in ROUTES:
                assert '"bad_request"' in call(server, function, file, route)
        for path in (f"/gradio_api/file={address}", f"/gradio_api/file=%20{address}"):
            assert raw(server, "GET", path)[0] in (400, 403)
        assert raw(server, "GET", f"/gradio_api/file/{address}")[0] == 404
        assert raw(server, "GET", f"/gradio_api/proxy={address}")[0] == 404
    assert Listener.seen == []


def test_an_upload_above_the_limit_is_refused_and_leaves_nothing(server: str, gradio_folder: Path) -> None:
    before = contents(gradio_folder)
    for size in (UPLOAD_BYTES + 1, 10 * UPLOAD_BYTES):
        assert httpx.post(f"{server}gradio_api/upload", files={"files": bytes(size)}).status_code == 413
    assert httpx.post(f"{server}gradio_api/upload", data={"field": "x" * 10 * UPLOAD_BYTES}).status_code in (400, 413)
    assert contents(gradio_folder) == before
    assert httpx.post(f"{server}gradio_api/upload", files={"files": bytes(UPLOAD_BYTES)}).status_code == 200


def test_bodies_that_are_too_large_too_deep_or_no_json_are_refused(server: str) -> None:
    def post(content: bytes) -> tuple[int, str]:
        answer = httpx.post(f"{server}gradio_api/call/encode", content=content)
        return answer.status_code, answer.json()["error"]

    assert post(b'{"data": ["' + b"x" * 2_000_000 + b'"]}') == (413, "too_large")
    assert post(b'{"data": ' + b"[" * 400_000 + b"]" * 400_000 + b"}") == (400, "bad_request")
    assert post(b'{"data": ' + b"[" * 100 + b"]" * 100 + b"}") == (400, "bad_request")
    assert post(b"data=x") == (400, "bad_request")
    assert httpx.post(f"{server}login", content=b"x" * 2_000_000).status_code == 413


def test_tools_give_no_addresses_either(gradio_folder: Path) -> None:
    async def behind(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse((await receive())["body"])(scope, receive, send)

    async def post(params: dict[str, Any]) -> tuple[int, Any]:
        guarded = Guard(gr.Blocks(), ServiceLimits(upload_bytes=UPLOAD_BYTES), ServerOptions(mcp=True))
        guarded.app, guarded.sessions = behind, SimpleNamespace(tables=SimpleNamespace(user=lambda _: None))
        transport = httpx.ASGITransport(guarded)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            request = {"id": 3, "method": "tools/call", "params": params}
            answer = await client.post("/gradio_api/mcp/", json=request)
        return answer.status_code, answer.json()

    greeting = {"clientInfo": {"websiteUrl": "https://example.com"}}
    assert asyncio.run(post(greeting)) == (200, {"id": 3, "method": "tools/call", "params": greeting})
    assert asyncio.run(post({"arguments": {"image": "data:image/png;base64,"}}))[0] == 200
    for image in ("https://example.com/x.png", {"path": "/etc/hostname"}, [{"path": "http://example.com"}]):
        status, answer = asyncio.run(post({"arguments": {"image": image}}))
        assert (status, answer["id"], answer["result"]["isError"]) == (200, 3, True)
        assert answer["result"]["content"][0]["text"].startswith("bad_request: ")


@pytest.mark.slow
def test_errors_show_neither_traces_nor_paths(server: str, gradio_folder: Path) -> None:
    uploaded = httpx.post(f"{server}gradio_api/upload", files={"files": b"no image"}).json()[0]
    file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    answers = [call(server, function, file, route) for function in functions(server) for route in ("call", "run")]
    answers += [call(server, function, None, "call") for function in functions(server)]
    for method, path in (
        ("GET", "/nothing"),
        ("POST", "/gradio_api/call/nothing"),
        ("POST", "/gradio_api/call/v2/nothing"),
        ("POST", "/gradio_api/run/nothing"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/cancel"),
        ("GET", "/gradio_api/call/encode/nothing"),
        ("POST", "/remote/decode"),
        ("POST", "/login"),
    ):
        status, text = raw(server, method, path, {"data": []} if method == "POST" else None)
        assert status >= 400 or path == "/gradio_api/call/encode/nothing"
        answers.append(text)
    for answer in answers:
        assert "Traceback" not in answer
        for inside in (str(ROOT), str(gradio_folder), "site-packages"):
            assert inside not in answer.replace(uploaded, "")


def contents(folder: Path) -> set[str]:
    return set(files_under(folder))


def empty_folders(folder: Path) -> list[Path]:
    return [inner for inner in folder.iterdir() if inner.is_dir() and not any(inner.iterdir())]
