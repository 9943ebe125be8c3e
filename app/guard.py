"""What reaches Gradio at all: its own routes that the app needs, bodies of a bounded size, files that were uploaded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradio_client.utils import is_http_url_like
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import temporary
from calls import Calls, NotFound, check_path, leave_range_to_starlette, parsed
from latent_ae.service.errors import BadRequest, Busy, ServiceError, ShuttingDown, TooLarge
from origins import Origins
from replies import Replies
from tools import CALL, ROUTES, RefusedCall

NEEDED = (
    *("app_id", "call/", "cancel", "config", "file=", "heartbeat/", "info", "login_check", "openapi.json", "queue/"),
    *("reset", "run/", "startup-events", "theme.css", "upload", "upload_progress", "user"),
)
"""Gradio's routes under /gradio_api/ that the page, the clients and the app itself use, by how they start."""
_WORKING = ("call/", "queue/join", "run/")
"""those whose work leaves results on disk"""

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
    received: int = 0
    """bytes of uploads and of what tools sent, since the start"""
    _swept: int = 0
    _before: int = field(default_factory=temporary.written)

    @property
    def written(self) -> int:
        """Bytes that came onto the disk since the start, or are about to."""
        return self.received + temporary.written()

    @property
    def stored(self) -> int:
        """Bytes of the temporary files at the last sweep, and of all that was written since."""
        return self._swept + self.written - self._before

    def swept(self, left: int, before: int) -> None:
        """So many bytes were left by a sweep that began when `written` was `before`."""
        self._swept, self._before = left, before


class Guard:
    """ASGI middleware in front of everything: Gradio, its middleware, and the app's plain routes.

    Gradio's own checks stay behind it. What it adds: pages of other sites are refused, routes that nothing here needs
    do not exist (proxy, recordings, editor, monitoring, the login cookie's value), no URL is fetched for a visitor, and
    no body is held that is larger than a request needs.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Origins,
        calls: Calls,
        replies: Replies,
        folder: Path,
        upload_bytes: int,
        stored_bytes: int,
        traffic: Traffic,
        mcp: bool,
    ) -> None:
        self.app = app
        self.origins = origins
        self.calls = calls
        self.replies = replies
        self.traffic = traffic
        self.folder = folder
        self.upload_bytes = upload_bytes
        self.stored_bytes = stored_bytes
        self.mcp = mcp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket: nothing here speaks by one, and no browser asks before it opens one
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")

        async def send_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.origins.own_headers(message, scope)
            await send(message)

        counted = "/heartbeat/" not in path
        self.traffic.requests += counted
        try:
            await self._answer(path, scope, receive, send_own)
        finally:
            self.traffic.requests -= counted

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.origins.check(scope, path)
            check_path(path)
            if self.traffic.closing and scope["method"] == "POST":
                raise ShuttingDown("the server is shutting down: try again later")
            if path.startswith("gradio_api/"):
                receive = await self._checked(path.removeprefix("gradio_api/"), scope, receive)
            elif path.startswith("monitoring"):
                raise NotFound("there is no such page")
            elif scope["method"] == "POST" and not path.startswith("remote/"):
                receive = await _held(receive, JSON_BYTES, scope)
        except RefusedCall as refused:
            await refused.response()(scope, receive, send)
            return
        except ServiceError as error:
            await self.replies.refusal(path, error)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _checked(self, route: str, scope: Scope, receive: Receive) -> Receive:
        """What the app is to read the request from. Raises ServiceError for what is refused."""
        tools = self.mcp and route in ROUTES
        if not tools and not route.startswith(NEEDED):
            raise NotFound("there is no such page")
        if route.startswith("file="):
            _require_no_url(route.removeprefix("file="))
            leave_range_to_starlette(scope)
        if scope["method"] == "GET":
            self.calls.check_stream(route, scope["query_string"])
        if scope["method"] != "POST":
            return receive
        if route.startswith("upload"):
            return self._counted(receive, _UPLOADS * self.upload_bytes + JSON_BYTES, scope)
        if route.startswith(_WORKING):
            self._require_room()
        receive = await _held(receive, tool_bytes(self.upload_bytes) if tools else JSON_BYTES, scope)
        message = await receive()
        if message["type"] == "http.request":
            body = message["body"]
            value = parsed(body)
            if tools:
                self._check_tool(value, len(body))
            else:
                self._check_files(value)
                self.calls.check(route, value)
        return _replay(message, receive)

    def _check_tool(self, value: Any, size: int) -> None:
        """Raise ServiceError for what a tool may not ask: its files are data: URIs, which are written to disk."""
        self.traffic.received += size
        request = value if isinstance(value, dict) else {}
        parameters = request.get("params")
        arguments = parameters.get("arguments") if isinstance(parameters, dict) else None
        call = request.get("method") == CALL and "id" in request
        try:
            if call:
                self._require_room()
            for argument in arguments.values() if isinstance(arguments, dict) else ():
                _require_no_url(argument)
                if isinstance(argument, str):
                    _require_size(_decoded_bytes(argument), self.upload_bytes)
            self._check_files(arguments)
        except ServiceError as error:
            if not call:
                raise
            raise RefusedCall(request["id"], error) from None

    def _counted(self, receive: Receive, limit: int, scope: Scope) -> Receive:
        """Hand an upload on as it comes and end it past `limit` bytes. Raises TooLarge or Busy beforehand if it can."""
        _require_size(_declared(scope), limit)
        self._require_room()
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            size = len(message.get("body", b""))
            seen += size
            self.traffic.received += size
            if seen > limit:
                # What Gradio's reader of uploads takes as its own: it removes what it wrote and answers 413.
                raise MultiPartException(f"The request exceeded the maximum allowed size of {limit} bytes.")
            return message

        return counted

    def _require_room(self) -> None:
        if self.traffic.stored > self.stored_bytes:
            raise Busy("the server's space for uploads and results is full: try again later")

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


def tool_bytes(upload_bytes: int) -> int:
    """The most that a tool's request may have: two files of the full size, which base64 makes larger by a third."""
    return 2 * (4 * upload_bytes // 3) + JSON_BYTES


def _require_no_url(path: object) -> None:
    if is_http_url_like(str(path).strip().lower()):
        raise BadRequest("addresses are not fetched: upload the file, or give it as a data: URI from a tool")


def _decoded_bytes(uri: str) -> int:
    """Bytes that a data: URI in base64 stands for."""
    return 3 * (len(uri) - uri.find(",") - 1) // 4 - uri[-2:].count("=")


def _require_uploaded(path: object, folder: Path) -> None:
    _require_no_url(path)
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise BadRequest("the file was not uploaded to this server: upload it first")


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
