"""All undocumented parts of Gradio (and of Starlette and FastAPI beneath it) that the app depends on.

`tests/app/test_gradio_internals.py` checks each against the installed version, which pyproject.toml bounds.
"""

import functools
import logging
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import gradio as gr
import gradio.mcp
import gradio.queueing
import gradio.routes
from gradio.components.api_component import Api
from gradio.context import Context, LocalContext
from gradio.data_classes import FileData
from gradio.events import Dependency
from gradio.utils import get_function_description, get_upload_folder
from starlette.datastructures import MutableHeaders
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Scope
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

App = gradio.routes.App
Upload = TypeVar("Upload", gr.Image, gr.File)
Preprocess = Callable[..., Awaitable[Sequence[Any]]]

API = "gradio_api/"
"""Prefix of Gradio's routes."""
ROUTES = (
    *("app_id", "call/", "cancel", "file=", "heartbeat/", "info", "login_check", "openapi.json", "queue/"),
    *("reset", "run/", "startup-events", "theme.css", "upload", "upload_progress", "user"),
)
"""Prefixes of the routes below `API` that the page, Gradio's clients and Gradio itself use."""
WORK_ROUTES = ("call/", "queue/join", "run/")
"""Prefixes of those that start work."""
TOOL_ROUTES = ("mcp", "mcp/", "mcp/http", "mcp/http/", "mcp/schema")
"""Streamable HTTP of MCP; the older transport answers by another request than it was asked by."""
CLIENT_ERROR_PATHS = (API, "config", "login")
"""Prefixes of paths for which the page and the clients read an error's `detail`."""

NO_PAGE_CHECK: dict[str, Any] = {"_frontend": False}
"""Argument of `launch` that leaves out a HEAD request for the page, after which Gradio does not start if it took more
than 3 seconds, as on a busy machine. Gradio has asked its startup route before, with no limit of time."""

NO_TOOLS_PAGE = ".api-docs .snippets .snippet:last-child { display: none; }"
"""Style that hides how to use the tools, where there are none."""

UploadAborted = MultiPartException
"""Raised while Gradio reads an upload, it makes Gradio remove what it has written."""

_log = logging.getLogger("app")


def queue_error_detail(code: str, message: str) -> list[dict[str, object]]:
    """The `detail` of a 422 from queue/join: the only error whose message gradio_client shows."""
    validation = {"__type__": "validate", "is_valid": False, "message": f"{code}: {message}"}
    return [{**validation, "parameter_name": "request"}]


def leave_range_to_starlette(scope: Scope) -> None:
    """Make Starlette answer the request's Range header, by writing the unit as Gradio does not recognise it.

    Gradio's own parser fails for several ranges, and answers one from the file's last byte to its first.
    """
    headers = MutableHeaders(scope=scope)
    if (given := headers.get("range", "")).startswith("bytes="):
        headers["range"] = f"Bytes={given.removeprefix('bytes=')}"


# --- files


def upload_folder() -> Path:
    """Where Gradio writes uploads, and from where it serves files."""
    return Path(get_upload_folder())


def file_address(path: str) -> str:
    """The address, from the page's own, of a file in the folder of uploads."""
    return f"{API}file={quote(path)}"


def forget_files(demo: gr.Blocks, paths: set[str]) -> None:
    """Remove deleted files from the sets in which Gradio remembers every file by its name. On the event loop only."""
    for files in demo.temp_file_sets:
        files.difference_update(paths)


def use_folder(demo: gr.Blocks, folder: Path) -> None:
    """Turn off Gradio's own deletion of files. Raises ValueError if the page was built with another upload folder."""
    if str(folder) != demo.GRADIO_CACHE:
        raise ValueError(f"the page was built with the upload folder {demo.GRADIO_CACHE}, expected {folder}")
    demo.delete_cache = None


def pass_uploads_as_paths(component: Upload) -> Upload:
    """Make an upload component hand its handlers the path of the file as it was uploaded.

    Gradio opens images and checks names first, with errors of its own. The method is replaced on the object because
    Gradio writes a stub file beside the source of every subclass. A handler must not answer with a `gr.update` of this
    component, for which Gradio builds a new object.
    """

    def path_of(payload: FileData | None) -> str | None:
        return None if payload is None else payload.path

    component.preprocess = path_of  # type: ignore[assignment, method-assign]  # of this instance alone
    return component


# --- the call that this thread or task works for


def scope_of_call() -> Scope | None:
    """The ASGI scope of the request behind the running function; None outside of Gradio's queue."""
    request = LocalContext.request.get(None)
    scope: Scope | None = getattr(getattr(request, "request", None), "scope", None)
    return scope


def forget_caller() -> None:
    """Drop the copy of the page's configuration that Gradio keeps for the session of the running function."""
    blocks, request = LocalContext.blocks.get(None), LocalContext.request.get(None)
    if blocks is not None and request is not None and request.session_hash is not None:
        blocks.state_holder.session_data.pop(request.session_hash, None)
        blocks.state_holder.time_last_used.pop(request.session_hash, None)


# --- functions of the page and of programs


@dataclass(frozen=True)
class Function:
    """One function that can be called."""

    call: Any
    parameters: Sequence[str]
    inputs: int
    """Number of values that the page sends."""
    api_inputs: int
    """Number of values without the page's state, which programs may leave out."""
    has_default: Mapping[str, bool] | None
    """Of a public endpoint, by parameter."""


def functions_of(demo: gr.Blocks) -> dict[int | str, Function]:
    """The functions of a page by their number (`fn_index`), and by the names of those that have one."""
    endpoints: dict[str, Any] = demo.get_api_info()["named_endpoints"]
    found: dict[int | str, Function] = {}
    for number, block in demo.fns.items():
        public = endpoints.get(f"/{block.api_name}")
        found[number] = Function(
            block.fn,
            [name or "" for name in block.input_parameter_names or ()],
            inputs=len(block.inputs),
            api_inputs=sum(not component.skip_api for component in block.inputs),
            has_default={each["parameter_name"]: each["parameter_has_default"] for each in public["parameters"]}
            if public
            else None,
        )
        if block.api_name:
            found.setdefault(block.api_name, found[number])
    return found


def describe_parameters(endpoint: Dependency) -> None:
    """Let the page, the schema and the tool of an endpoint say what its docstring says of each parameter.

    Called while the Blocks is built. Gradio 6.31 itself does it in tools alone.
    """
    blocks = Context.root_block
    assert blocks is not None, "no Blocks is being built"
    _, texts, _ = get_function_description(endpoint.fn)
    for number, (name, text) in zip(endpoint["inputs"], texts.items(), strict=True):
        parameter = blocks.blocks[number]
        assert isinstance(parameter, Api)
        parameter.label = name
        told = text[:1].upper() + text[1:]
        parameter._api_info |= {"description": told, "additional_description": told}  # for the schema, for the page


def wrap_preprocess(demo: gr.Blocks, wrap: Callable[[Preprocess], Preprocess]) -> None:
    """Wrap the step from the values in a request to the arguments of a function."""
    demo.preprocess_data = wrap(demo.preprocess_data)  # type: ignore[method-assign, assignment]  # of this page alone


# --- sessions


class SessionTables:
    """What Gradio keeps of sessions: its queue, results, page states and logins. On the event loop only."""

    def __init__(self, demo: gr.Blocks, app: App) -> None:
        queue, states = demo._queue, app.state_holder
        self._queue = queue
        self.messages = queue.pending_messages_per_session
        """Results that were not fetched yet (`qsize()` of them), by session."""
        self._event_ids = queue.pending_event_ids_session
        self.events = queue.event_ids_to_events
        """Calls that wait or run: `session_hash`, `request`."""
        self.states = states.session_data
        """Page states, by session."""
        self._state_times = states.time_last_used
        self.logins: dict[str, str] = app.tokens
        """User names, by the value of the login cookie; the oldest first."""
        self._cookies = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        progress = gradio.routes.file_upload_statuses
        self.uploads: tuple[dict[str, Any], ...] = progress._statuses, progress._signals
        """Uploads whose progress can be asked for; the oldest first."""

    def user(self, cookies: Mapping[str, str]) -> str | None:
        """The name of the visitor that is logged in by these cookies."""
        return next((self.logins[cookies[name]] for name in self._cookies if cookies.get(name) in self.logins), None)

    def drop(self, session: str) -> None:
        """Forget results and page state of a session."""
        tables: tuple[dict[str, Any], ...] = self.messages, self._event_ids, self.states, self._state_times
        for table in tables:
            table.pop(session, None)

    def knows_event(self, event: str) -> bool:
        """Whether the event waits, runs, or has a result to fetch."""
        # Without a session of its own an event is one, and its result is kept when it is done.
        known = event in self.events or event in self.messages
        return known or any(event in events for events in self._event_ids.values())

    def after_push(self, act: Callable[[Any, Any], None]) -> None:
        """Call `act(body, request)` for each call that has entered the queue: of pages, programs and tools."""
        push = self._queue.push

        async def pushed(body: Any, request: Any, username: str | None) -> Any:
            entered = await push(body, request, username)
            act(body, request)
            return entered

        self._queue.push = pushed  # type: ignore[method-assign]  # of this queue alone

    def reorder_queues(self, order: Callable[[list[Any]], list[Any]]) -> None:
        """Reorder the calls that wait for a thread, in each of Gradio's queues."""
        for line in self._queue.event_queue_per_concurrency_id.values():
            line.queue[:] = order(line.queue)


# --- tools of language models (MCP)


def serve_tools(folder: Path, body_bytes: int) -> None:
    """Make the next launch with MCP write files into `folder`, and take request bodies of up to `body_bytes`."""
    gradio.mcp.DEFAULT_TEMP_DIR = str(folder)  # decided when gradio.mcp was imported
    server = functools.partial(ToolServer, body_bytes=body_bytes)
    gradio.mcp.GradioMCPServer = server  # type: ignore[misc, assignment]  # it is only called


class ToolServer(gradio.mcp.GradioMCPServer):
    """Asks for files as data: URIs, the only form that the guard lets through."""

    _file_data_tool_description = " Files are given as data: URIs, as data:image/png;base64,...; addresses are refused."

    def __init__(self, blocks: Any, *, body_bytes: int) -> None:
        super().__init__(blocks)
        self.manager.asgi_app.max_body_size = body_bytes  # 4 MiB by default

    def simplify_filedata_schema(self, schema: dict[str, Any]) -> tuple[dict[str, Any], list[list[str | int]]]:
        """Gradio's schema of a tool's arguments, with the form of files in it."""
        simplified, places = super().simplify_filedata_schema(schema)
        for name, *_ in places:
            simplified["properties"][name]["format"] = "a data: URI"
        return simplified, places


# --- the server


def tool_error(demo: gr.Blocks) -> str | None:
    """The error for which the launched page offers no tools, which Gradio does not report; None if it offers them."""
    return demo.mcp_error


def set_server(demo: gr.Blocks, connection: Callable[..., H11Protocol], *, shutdown_seconds: int) -> None:
    """Let the running server make `connection`s, and give open ones this long to end.

    uvicorn reads both anew for each connection and at its end.
    """
    config: Config = demo.server.config
    config.http_protocol_class = connection  # type: ignore[assignment]  # it is only called
    config.timeout_graceful_shutdown = shutdown_seconds


def put_in_front(app: App, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """Wrap the started app with all of its middleware; added middleware would run after Gradio's own."""
    assert app.middleware_stack is not None, "the app has not been started"
    app.middleware_stack = wrap(app.middleware_stack)


def log_failed_calls() -> None:
    """Log what calls raise, in place of printing the stack.

    Raises AttributeError if Gradio's modules no longer print by `traceback`, of which they use nothing else.
    """
    for module in (gradio.queueing, gradio.routes):
        if not hasattr(module, "traceback"):
            raise AttributeError(f"{module.__name__} no longer imports traceback: find where it prints exceptions")
        vars(module)["traceback"] = types.SimpleNamespace(
            print_exc=lambda: _log.warning("a call failed", exc_info=True)
        )
