"""What reaches Gradio at all: its own routes that the app needs, bodies of a bounded size, files that were uploaded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradio_client.utils import is_http_url_like
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latent_ae.service.errors import BadRequest, Busy, ServiceError, ShuttingDown, TooLarge

NEEDED = (
    *("app_id", "call/", "cancel", "config", "file=", "heartbeat/", "info", "login_check", "openapi.json", "queue/"),
    *("reset", "run/", "startup-events", "theme.css", "token", "upload", "upload_progress", "user"),
)
"""Gradio's routes under /gradio_api/ that the page, the clients and the app itself use, by how they start."""

JSON_BYTES = 1 << 20
_DEPTH = 32
_UPLOADS = 4
"""files of the full size that one request may bring: as many as the largest form of the page takes"""


@dataclass
class Traffic:
    """What is on its way; all of it on the server's event loop, apart from `closing`."""

    requests: int = 0
    """that are not answered, apart from the signs of life that every open page asks for"""
    closing: bool = False
    stored: int = 0
    """bytes of the temporary files at the last sweep, and of the uploads since"""


class Guard:
    """ASGI middleware in front of Gradio; the app's plain routes pass it untouched.

    Gradio's own checks stay behind it. What it adds: routes that nothing here needs do not exist (proxy, recordings,
    editor, monitoring), no URL is fetched for a visitor, and no body is held that is larger than a request needs.
    """

    def __init__(
        self, app: ASGIApp, *, folder: Path, upload_bytes: int, stored_bytes: int, traffic: Traffic, mcp: bool
    ) -> None:
        self.app = app
        self.traffic = traffic
        self.folder = folder
        self.upload_bytes = upload_bytes
        self.stored_bytes = stored_bytes
        self.needed = (*NEEDED, "mcp") if mcp else NEEDED

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        counted = "/heartbeat/" not in path
        self.traffic.requests += counted
        try:
            await self._answer(path, scope, receive, send)
        finally:
            self.traffic.requests -= counted

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.traffic.closing and scope["method"] == "POST":
                raise ShuttingDown("the server is shutting down: try again later")
            if path.startswith("gradio_api/"):
                receive = await self._checked(path.removeprefix("gradio_api/"), scope, receive)
            elif path.startswith("monitoring"):
                raise _NotFound("there is no such page")
            elif scope["method"] == "POST" and not path.startswith("remote/"):
                receive = await _held(receive, JSON_BYTES, scope)
        except ServiceError as error:
            await JSONResponse({"error": error.code, "message": str(error)}, error.status)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _checked(self, route: str, scope: Scope, receive: Receive) -> Receive:
        """What the app is to read the request from. Raises ServiceError for what is refused."""
        if not route.startswith(self.needed):
            raise _NotFound("there is no such page")
        if route.startswith("file="):
            _require_no_url(route.removeprefix("file="))
        if scope["method"] != "POST":
            return receive
        if route.startswith("upload"):
            return self._counted(receive, _UPLOADS * self.upload_bytes + JSON_BYTES, scope)
        tools = route.startswith("mcp")
        receive = await _held(receive, 2 * self.upload_bytes if tools else JSON_BYTES, scope)
        message = await receive()
        if body := message.get("body"):
            check = self._check_tool if tools else self._check_files
            check(_parsed(body))
        return _replay(message, receive)

    def _check_tool(self, value: Any) -> None:
        """Raise BadRequest for a tool's call that names an address: tools give files as data: URIs."""
        parameters = value.get("params") if isinstance(value, dict) else None
        arguments = parameters.get("arguments") if isinstance(parameters, dict) else None
        for argument in arguments.values() if isinstance(arguments, dict) else ():
            _require_no_url(argument)
        self._check_files(arguments)

    def _counted(self, receive: Receive, limit: int, scope: Scope) -> Receive:
        """Hand an upload on as it comes and end it past `limit` bytes. Raises TooLarge or Busy beforehand if it can."""
        _require_size(_declared(scope), limit)
        if self.traffic.stored > self.stored_bytes:
            raise Busy("the server's space for uploads is full: try again later")
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            self.traffic.stored += size
            if seen > limit:
                # What Gradio's reader of uploads takes as its own: it removes what it wrote and answers 413.
                raise MultiPartException(f"The request exceeded the maximum allowed size of {limit} bytes.")
            return message

        return counted

    def _check_files(self, value: Any, depth: int = 0) -> None:
        """Raise BadRequest unless every file that a request names was uploaded here."""
        if depth > _DEPTH:
            raise BadRequest(f"the request is nested deeper than {_DEPTH} levels")
        if isinstance(value, dict):
            if "path" in value:
                _require_uploaded(value["path"], self.folder)
            for inner in value.values():
                self._check_files(inner, depth + 1)
        elif isinstance(value, list):
            for inner in value:
                self._check_files(inner, depth + 1)


class _NotFound(ServiceError):  # noqa: N818 - named as HTTP names it
    code = "not_found"
    status = 404


def _require_no_url(path: object) -> None:
    if is_http_url_like(str(path).strip().lower()):
        raise BadRequest("addresses are not fetched: upload the file")


def _require_uploaded(path: object, folder: Path) -> None:
    _require_no_url(path)
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise BadRequest("the file was not uploaded to this server: upload it first")


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("expected JSON in the request's body") from None


def _require_size(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"the request has {size} bytes, {limit} are allowed")


def _declared(scope: Scope) -> int:
    """Bytes that the request says it has, 0 if it says nothing."""
    given = dict(scope["headers"]).get(b"content-length", b"0")
    return int(given) if given.isdigit() else 0


async def _held(receive: Receive, limit: int, scope: Scope) -> Receive:
    """Read the whole body, at most `limit` bytes, and give it out again. Raises TooLarge."""
    _require_size(_declared(scope), limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return _replay(message, receive)
        body += message.get("body", b"")
        _require_size(len(body), limit)
        if not message.get("more_body", False):
            return _replay({"type": "http.request", "body": bytes(body), "more_body": False}, receive)


def _replay(message: Message, receive: Receive) -> Receive:
    """`message` first, then what comes from `receive`."""
    waiting = [message]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
