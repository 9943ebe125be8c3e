"""Which requests reach the app: those of its own pages and of programs, to routes that are needed.

origins --> visitor's share of requests --> route --> body, whole or counted --> its content --> the app
"""

import logging
import re
from collections.abc import Callable, Hashable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latent_ae.app import temporary
from latent_ae.app.gradio_internals import (
    API,
    ROUTES,
    TOOL_ROUTES,
    WORK_ROUTES,
    UploadAborted,
    leave_range_to_starlette,
)
from latent_ae.app.perimeter.access import VISITOR, Origins, name_visitor
from latent_ae.app.perimeter.bodies import Bodies, Body
from latent_ae.app.perimeter.content import Calls, Files, NotFound, check_path, check_stream, parsed, require_no_url
from latent_ae.app.perimeter.error_replies import RefusedToolCall, Replies
from latent_ae.app.perimeter.sessions import Sessions
from latent_ae.service.admission import Slots
from latent_ae.service.errors import BadRequest, Busy, ServiceError, ShuttingDown

JSON_BYTES = 1 << 20
MAX_REQUESTS = 512
"""Requests answered at a time, open streams of pages included; half of them for one visitor."""
_UNCOUNTED = ("healthz", "readyz", "metrics")
_UPLOADS = 4
"""Files of the full size in one request: the largest form of the page has as many inputs."""
_FILE_BYTES = 4096
"""Least space of a file on the disk."""
_IDENTIFIER = re.compile(r"[\w-]{1,64}", re.ASCII)
_IDENTIFIERS = ("session_hash", "event_id")
"""Made by the page or the client, and kept by Gradio."""

_log = logging.getLogger(__name__)


@dataclass
class Traffic:
    """Requests and bytes under way. On the server's event loop only, except `closing`."""

    requests: int = 0
    """Requests not answered yet, without the heartbeats of open pages."""
    closing: bool = False
    received: int = 0
    """Bytes of uploads and of tools' requests since the start."""
    _swept: int = 0
    _before: int = field(default_factory=temporary.written)

    @property
    def written(self) -> int:
        """Bytes written to the disk since the start, or about to be."""
        return self.received + temporary.written()

    @property
    def stored(self) -> int:
        """Bytes of the temporary files after the last sweep, and of those written since."""
        return self._swept + self.written - self._before

    def swept(self, left: int, before: int) -> None:
        """Note the bytes that a sweep left, which began when `written` was `before`."""
        self._swept, self._before = left, before


@dataclass
class Guard:
    """ASGI middleware in front of Gradio, its middleware and the app's plain routes.

    Gradio's own checks stay behind it. The guard refuses pages of other sites, routes that are not needed (proxy,
    recordings, editor, monitoring, the login cookie's value), URLs to fetch, and bodies that are too large or too slow.
    """

    app: ASGIApp
    _: KW_ONLY
    origins: Origins
    calls: Calls
    replies: Replies
    user: Callable[[HTTPConnection], str | None]
    """The name of the logged in visitor of a request."""
    bodies: Bodies
    files: Files
    sessions: Sessions
    upload_bytes: int
    stored_bytes: int
    traffic: Traffic
    mcp: bool
    proxied: bool = False
    """Whether proxies are known; else the first request through one is logged."""
    _requests: Slots = field(default_factory=lambda: Slots(MAX_REQUESTS), init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web socket is used, and browsers open them without asking
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")

        async def send_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.origins.own_headers(message, scope)
            await send(message)

        try:
            self.origins.check(scope, path)
            check_path(path)
            await self._counted(path, scope, receive, send_own)
        except RefusedToolCall as refused:
            await refused.response()(scope, receive, send_own)
        except ServiceError as error:
            await self.replies.refusal(path, error)(scope, receive, send_own)

    async def _counted(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request unless its visitor has too many already. Raises Busy."""
        request = HTTPConnection(scope)
        if not self.proxied and "x-forwarded-for" in request.headers:
            self.proxied = True
            _log.warning("requests come through a proxy, whose visitors count as one: see --trusted-proxy")
        visitor = name_visitor(scope, self.user(request))
        counted = path not in _UNCOUNTED
        if counted and not self._requests.acquire(visitor):
            raise Busy(
                f"{self._requests.held_by(visitor)} of your requests are not answered yet: try again in a moment"
            )
        heartbeat = f"{API}heartbeat/"
        session = path.removeprefix(heartbeat) if path.startswith(heartbeat) else None
        self.traffic.requests += session is None
        try:
            if session is None:
                await self._answer(path, scope, receive, send)
            else:
                _require_identifier("session_hash", session)
                with self.sessions.page(session, visitor):
                    await self._answer(path, scope, receive, send)
        finally:
            self.traffic.requests -= session is None
            if counted:
                self._requests.release(visitor)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self.traffic.closing and scope["method"] == "POST":
            raise ShuttingDown
        route = path.removeprefix(API) if path.startswith(API) else ""
        tools = self.mcp and route in TOOL_ROUTES
        if path.startswith("monitoring") or (path.startswith(API) and not (tools or route.startswith(ROUTES))):
            raise NotFound("there is no such page")
        if route.startswith("file="):
            require_no_url(route.removeprefix("file="))
            leave_range_to_starlette(scope)
        for upload in HTTPConnection(scope).query_params.getlist("upload_id"):
            _require_identifier("upload_id", upload)
        if scope["method"] == "POST":
            await self._posted(path, route, scope, receive, send, tools=tools)
            return
        if scope["method"] == "GET":
            check_stream(self.sessions.tables, route, scope["query_string"])
        await self.app(scope, receive, send)

    async def _posted(self, path: str, route: str, scope: Scope, receive: Receive, send: Send, *, tools: bool) -> None:
        upload, remote = route.startswith("upload"), path.startswith("remote/")
        limit = JSON_BYTES
        if upload:
            limit = upload_limit(self.upload_bytes)
        elif remote or tools:
            limit = self.upload_bytes if remote else tool_bytes(self.upload_bytes)
        with self.bodies.arriving(scope[VISITOR], receive, limit, scope) as body:
            if upload:
                await self._upload(body, scope, send)
            elif remote:  # read there, after the password
                await self.app(scope, body.receive, send)
            else:
                if route.startswith(WORK_ROUTES):
                    self._require_room()
                whole = await body.read()
                if tools:
                    self._check_tool(parsed(whole), len(whole))
                elif route:
                    self._check(route, parsed(whole), scope[VISITOR])
                await self.app(scope, _replay(whole, body.receive), send)

    def _check(self, route: str, value: Any, visitor: Hashable) -> None:
        """Raise ServiceError for JSON that asks for something that is not allowed."""
        fields = value if isinstance(value, dict) else {}
        for name in _IDENTIFIERS:
            if fields.get(name) is not None:
                _require_identifier(name, fields[name])
        self.files.check(value)
        self.calls.check(route, value)
        if route.startswith(WORK_ROUTES) and isinstance(value, dict):
            self.sessions.require_room(value.get("session_hash"), visitor)

    def _check_tool(self, value: Any, size: int) -> None:
        self.traffic.received += size
        request = value if isinstance(value, dict) else {}
        parameters = request.get("params")
        arguments = parameters.get("arguments") if isinstance(parameters, dict) else None
        call = request.get("method") == "tools/call" and "id" in request
        try:
            if call:
                self._require_room()
            self.files.check_tool(arguments)
        except ServiceError as error:
            if not call:
                raise
            raise RefusedToolCall(request["id"], error) from None

    async def _upload(self, body: Body, scope: Scope, send: Send) -> None:
        """Pass an upload on as it arrives. Raises the ServiceError that ends it."""
        self._require_room()

        async def receive() -> Message:
            try:
                message = await body.receive()
            except ServiceError as error:
                raise UploadAborted(str(error)) from None
            data = message.get("body", b"")
            self.traffic.received += len(data) + _FILE_BYTES * data.count(b"filename=")
            return message

        async def send_whole(message: Message) -> None:
            if body.error is None:
                await send(message)

        await self.app(scope, receive, send_whole)
        if body.error is not None:
            raise body.error

    def _require_room(self) -> None:
        if self.traffic.stored > self.stored_bytes:
            raise Busy("the server's space for uploads and results is full: try again later")


def upload_limit(upload_bytes: int) -> int:
    """Maximum size of a form with uploads."""
    return _UPLOADS * upload_bytes + JSON_BYTES


def tool_bytes(upload_bytes: int) -> int:
    """Maximum size of a tool's request: two files of the full size, which base64 enlarges by a third."""
    return 2 * (4 * upload_bytes // 3) + JSON_BYTES


def _require_identifier(name: str, value: object) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise BadRequest(f"{name}: expected at most 64 letters, digits, - and _")


def _replay(body: bytes, receive: Receive) -> Receive:
    """The whole body first, then the messages of `receive`."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
