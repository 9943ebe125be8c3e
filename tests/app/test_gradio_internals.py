"""Each undocumented part of Gradio, Starlette and uvicorn that the app uses is there, and does what the app expects."""

import ast
import contextlib
import re
import socket
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import gradio.mcp
import gradio.networking
import gradio.queueing
import gradio.ranged_response
import httpx
import pytest
from packaging.requirements import Requirement
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from latent_ae.app import gradio_internals as internals
from tests.app.perimeter.test_guard import contents

ROOT = Path(__file__).parents[2]
APP = ROOT / "latent_ae" / "app"
ELEMENTS = (
    *("caption-label", "fixed-height", "form", "gallery", "gallery-container", "gallery-item", "gradio-container"),
    *("grid-container", "grid-wrap", "html-container", "image-frame", "media-button", "preview", "prose"),
    *("thumbnail-lg", "api-docs", "snippets", "snippet"),
)
"""CSS classes of Gradio's own elements that the styles and scripts of the page name"""
DOCUMENTED = {
    *("gradio", "gradio.components", "gradio.themes"),
    *(
        "starlette.datastructures",
        "starlette.exceptions",
        "starlette.requests",
        "starlette.responses",
        "starlette.routing",
        "starlette.types",
    ),
}
PRIVATE = re.compile(
    r"_queue\b|\.fns\b|state_holder|temp_file_sets|GRADIO_CACHE|middleware_stack|demo\.(server|mcp_error|delete_cache)"
    r"|skip_api|\.preprocess\b|preprocess_data|LocalContext|get_upload_folder|http_protocol_class|cookie_id"
)


@pytest.fixture(scope="module")
def seen() -> SimpleNamespace:
    """What the small app below has noted."""
    return SimpleNamespace(scopes=[], pushed=[], answers=[], preprocessed=[], connections=0)


@pytest.fixture(scope="module")
def demo(gradio_folder: Path, seen: SimpleNamespace) -> gr.Blocks:
    """A page with an upload, a state, and endpoints."""

    def look(name: str, count: int = 1) -> str:
        seen.scopes.append(internals.scope_of_call())
        internals.forget_caller()
        return name * count

    def fail(name: str) -> str:
        raise RuntimeError(name)

    with gr.Blocks() as demo:
        gr.events.api(look, api_name="look", api_visibility="public")
        gr.events.api(fail, api_name="fail", api_visibility="public")
        image = internals.pass_uploads_as_paths(gr.Image(type="filepath"))
        state, text = gr.State("kept"), gr.Textbox()
        gr.Button("x").click(lambda path, state: f"{path} {state}", [image, state], text, api_name="clicked")

    def wrap(preprocess: internals.Preprocess) -> internals.Preprocess:
        async def noted(*arguments: Any, **named: Any) -> Any:
            seen.preprocessed.append(arguments[0].api_name)
            return await preprocess(*arguments, **named)

        return noted

    internals.wrap_preprocess(demo, wrap)
    return demo


@pytest.fixture(scope="module")
def server(demo: gr.Blocks, gradio_folder: Path, seen: SimpleNamespace) -> Iterator[str]:
    """The address of the page, with all internals in use."""

    @contextlib.asynccontextmanager
    async def lifespan(app: internals.App) -> AsyncIterator[None]:
        seen.tables = internals.SessionTables(demo, app)
        seen.tables.after_push(lambda body, request: seen.pushed.append((body.session_hash, request.scope["path"])))

        def noted(inner: ASGIApp) -> ASGIApp:
            async def outer(scope: Scope, receive: Receive, send: Send) -> None:
                async def note(message: Message) -> None:
                    if message["type"] == "http.response.start":
                        seen.answers.append(dict(message["headers"]))
                    await send(message)

                heard = 0

                async def hear() -> Message:
                    nonlocal heard
                    heard += 1
                    if heard > 2 and HTTPConnection(scope).headers.get("x-abort"):
                        raise internals.UploadAborted("enough")
                    return await receive()

                await inner(scope, hear, note)

            return outer

        internals.put_in_front(app, noted)
        yield

    class Counted(H11Protocol):
        def on_response_complete(self) -> None:
            super().on_response_complete()
            assert self.cycle.response_complete
            assert self.client is not None
            assert self.client[0] == "127.0.0.1"
            seen.connections += 1

    internals.use_folder(demo, gradio_folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradio.networking, "url_ok", lambda _: False)  # a page that takes more than 3 seconds
        _, url, _ = demo.launch(
            server_name="127.0.0.1",
            server_port=port,
            auth=lambda name, password: (name, password) == ("ann", "secret"),
            app_kwargs={"lifespan": lifespan},
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            **internals.NO_PAGE_CHECK,
        )
    assert internals.tool_error(demo) is None
    internals.set_server(demo, Counted, shutdown_seconds=3)
    httpx.get(url)  # uvicorn takes the class anew for each connection
    yield url
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    """A visitor that is logged in."""
    with httpx.Client(base_url=server) as client:
        assert client.post("login", data={"username": "ann", "password": "secret"}).status_code == 200
        yield client


def called(client: httpx.Client, name: str, data: list[Any]) -> str:
    """The stream of a call's result."""
    event = client.post(f"gradio_api/call/{name}", json={"data": data}).json()["event_id"]
    return client.get(f"gradio_api/call/{name}/{event}").text


def test_no_other_module_uses_what_is_private() -> None:
    for path in APP.rglob("*.py"):
        if path.name == "gradio_internals.py":
            continue
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                library = name.partition(".")[0]
                assert library not in ("gradio", "starlette") or name in DOCUMENTED, f"{path.name} imports {name}"
                assert library not in ("gradio_client", "fastapi"), f"{path.name} imports {name}"
                assert library != "uvicorn" or path.name == "connections.py", f"{path.name} imports {name}"
        assert not (found := PRIVATE.search(text)), f"{path.name} uses {found}"


def test_the_version_of_gradio_is_bounded_by_its_next_minor_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    (bound,) = (Requirement(line).specifier for line in lines if Requirement(line).name == "gradio")
    major, minor, _ = version("gradio").split(".")
    assert bound.contains(version("gradio"))
    assert not bound.contains(f"{major}.{int(minor) + 1}.0")


def test_files_lie_in_the_folder_that_the_environment_names(demo: gr.Blocks, gradio_folder: Path) -> None:
    assert internals.upload_folder() == gradio_folder
    with pytest.raises(ValueError, match="the upload folder"):
        internals.use_folder(demo, gradio_folder / "other")
    assert demo.delete_cache is None


def test_gradio_forgets_files_that_were_deleted(client: httpx.Client, demo: gr.Blocks) -> None:
    (path,) = client.post("gradio_api/upload", files={"files": ("a.txt", b"x")}).json()
    known = set().union(*demo.temp_file_sets)
    assert path in known
    internals.forget_files(demo, {path})
    assert set().union(*demo.temp_file_sets) == known - {path}


def test_an_upload_reaches_its_function_as_the_path_of_the_file(client: httpx.Client) -> None:
    (path,) = client.post("gradio_api/upload", files={"files": ("a.png", b"no image")}).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert f"{path} kept" in called(client, "clicked", [file, None])


def test_a_running_function_knows_its_request(client: httpx.Client, seen: SimpleNamespace) -> None:
    assert "aa" in called(client, "look", ["a", 2])
    assert HTTPConnection(seen.scopes[-1]).headers["host"] in str(client.base_url)
    assert internals.scope_of_call() is None


def test_functions_and_their_parameters(demo: gr.Blocks, client: httpx.Client, seen: SimpleNamespace) -> None:
    functions = internals.functions_of(demo)
    look, clicked = functions["look"], functions["clicked"]
    assert look.has_default == {"name": False, "count": True}
    assert (list(look.parameters), look.inputs, look.api_inputs) == (["name", "count"], 2, 2)
    assert (clicked.inputs, clicked.api_inputs) == (2, 1)
    assert look.call.__name__ == "look"
    assert [functions[number] for number in range(3)] == [look, functions["fail"], clicked]
    assert set(functions) == {0, 1, 2, "look", "fail", "clicked"}
    called(client, "look", ["a", 1])
    assert seen.preprocessed[-1] == "look"


def test_results_that_wait_and_their_session(client: httpx.Client, seen: SimpleNamespace) -> None:
    tables = seen.tables
    event = client.post("gradio_api/call/look", json={"data": ["b", 1]}).json()["event_id"]
    session, path = seen.pushed[-1]
    assert path == "/gradio_api/call/look"
    assert tables.knows_event(event)
    assert not tables.knows_event("another")
    assert tables.messages[session].qsize() >= 0
    client.post("gradio_api/run/clicked", json={"data": [None, None], "session_hash": "page", "fn_index": None})
    assert "page" in tables.states
    tables.drop("page")
    tables.drop(session)
    assert "page" not in tables.states
    assert session not in tables.messages


def test_the_queue_can_be_reordered(demo: gr.Blocks, seen: SimpleNamespace, server: str) -> None:
    # What SessionTables relies on, and therefore not through it.
    queues = demo._queue.event_queue_per_concurrency_id
    assert all(isinstance(line.queue, list) for line in queues.values())
    event: Any = gradio.queueing.Event("page", *[SimpleNamespace(concurrency_id="1")] * 2, None)  # type: ignore[arg-type]
    assert event.session_hash == "page"
    assert event.request is event.fn
    seen.tables.reorder_queues(lambda events: events[::-1])


def test_logins_are_known_by_their_cookie(client: httpx.Client, seen: SimpleNamespace) -> None:
    assert seen.tables.user(client.cookies) == "ann"
    assert seen.tables.user({}) is None
    assert "ann" in seen.tables.logins.values()


def test_progress_of_uploads_is_in_the_tables(client: httpx.Client, seen: SimpleNamespace) -> None:
    client.post("gradio_api/upload?upload_id=u1", files={"files": ("a.txt", b"x")})
    assert any("u1" in table for table in seen.tables.uploads)


def test_the_wrapper_stands_in_front_of_gradios_own_middleware(client: httpx.Client, seen: SimpleNamespace) -> None:
    client.get("config", headers={"Origin": "http://localhost:1234"})
    assert b"access-control-allow-origin" in seen.answers[-1]


def test_connections_are_made_by_the_class_that_was_set(client: httpx.Client, seen: SimpleNamespace) -> None:
    with httpx.Client(base_url=client.base_url) as other:
        before = seen.connections
        other.get("config")
        end = time.monotonic() + 60  # the server notes it after the client has the reply
        while seen.connections == before:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_routes_exist(demo: gr.Blocks, server: str) -> None:
    paths = {getattr(route, "path", "") for route in demo.app.routes} | paths_of(demo.app.routes)
    below = {path.partition(internals.API)[2].replace("{path_or_url:path}", "") for path in paths}
    for prefix in (*internals.ROUTES, *internals.WORK_ROUTES):
        assert any(path.startswith(prefix) for path in below if path), f"{prefix}: {sorted(below)}"


def paths_of(routes: Any) -> set[str]:
    """The paths of routes and of the routers that they hold."""
    found = set()
    for route in routes:
        found.add(getattr(route, "path", ""))
        for router in (getattr(route, name, None) for name in ("routes", "original_router", "router")):
            inner = router if isinstance(router, list) else getattr(router, "routes", [])
            found |= paths_of(inner)
    return found


def test_gradio_does_not_recognise_a_range_in_capital_letters_and_starlette_does() -> None:
    scope: Scope = {"type": "http", "headers": [(b"range", b"bytes=0-1")]}
    assert gradio.ranged_response.RANGE_REGEX.match("bytes=0-1")
    internals.leave_range_to_starlette(scope)
    (value,) = (value.decode() for name, value in scope["headers"] if name == b"range")
    assert not gradio.ranged_response.RANGE_REGEX.match(value)


def test_an_upload_that_is_aborted_is_answered_and_leaves_no_file(client: httpx.Client) -> None:
    before = contents(internals.upload_folder())
    answer = client.post("gradio_api/upload", files={"files": ("a.txt", bytes(5_000_000))}, headers={"X-Abort": "1"})
    assert answer.status_code == 400
    assert contents(internals.upload_folder()) == before


def test_what_calls_raise_is_logged_and_not_printed(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    monkeypatch.setattr(gradio.queueing, "traceback", gradio.queueing.traceback)
    monkeypatch.setattr("gradio.routes.traceback", gradio.routes.traceback)
    internals.log_failed_calls()
    assert "event: error" in called(client, "fail", ["why"])
    assert "a call failed" in caplog.text
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.delattr(gradio.queueing, "traceback")
    with pytest.raises(AttributeError, match="no longer imports traceback"):
        internals.log_failed_calls()


def test_tools_are_served_by_the_class_that_was_set(gradio_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(file: gr.FileData) -> str:
        """Look at a file."""
        return file.path

    with gr.Blocks() as demo:
        gr.events.api(look, api_name="look")
    monkeypatch.setattr(gradio.mcp, "DEFAULT_TEMP_DIR", "")
    monkeypatch.setattr(gradio.mcp, "GradioMCPServer", gradio.mcp.GradioMCPServer)
    internals.serve_tools(gradio_folder, 12345)
    made = gradio.mcp.GradioMCPServer(demo)
    assert isinstance(made, internals.ToolServer)
    assert made.manager.asgi_app.max_body_size == 12345
    assert str(gradio_folder) == gradio.mcp.DEFAULT_TEMP_DIR
    assert "Files are given as data: URIs" in made.get_fn_description(demo.fns[0], "look")[0]
    schema, _ = made.get_input_schema("look")
    assert schema["properties"]["file"]["format"] == "a data: URI"


def test_settings_that_gradio_reads_when_it_is_imported_have_their_names() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(gradio.__file__).parent.glob("*.py"))
    settings = re.findall(r'"(GRADIO_[A-Z_]+)"', (APP / "gradio_settings.py").read_text(encoding="utf-8"))
    assert len(settings) == 4
    for name in settings:
        assert f'"{name}"' in sources, name


def test_elements_that_the_styles_name_are_in_gradios_page() -> None:
    bundles = Path(gradio.__file__).parent / "templates" / "frontend"
    page = "".join(path.read_text(encoding="utf-8") for path in bundles.rglob("*.css"))
    page += "".join(path.read_text(encoding="utf-8") for path in bundles.rglob("*.js"))
    for name in ELEMENTS:
        assert re.search(rf"\b{name}\b", page), name
