"""What reaches the app at all: requests of this server's own pages and of programs, to routes that are needed.

origins --> visitor's share of requests --> route --> body, whole or counted --> what is in it --> the app
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
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

_ALWAYS = ("healthz", "readyz", "metrics")
"""for which there is always a place"""

JSON_BYTES = 1 << 20
MOST_REQUESTS = 512
"""that are answered at a time, the open streams of pages among them, and half of them of one visitor"""
_UPLOADS = 4
"""files of the full size that one request may bring: as many as the largest form of the page takes"""
_FILE_BYTES = 4096
"""that a file takes on the disk however little is in it"""
_IDENTIFIER = re.compile(r"[\w-]{1,64}", re.ASCII)
_IDENTIFIERS = ("session_hash", "event_id")
"""made by the page or the client, and kept by Gradio"""

_log = logging.getLogger(__name__)


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
    no body is held that is larger than a request needs, or comes too slowly.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        origins: Origins,
        calls: Calls,
        replies: Replies,
        user: Callable[[HTTPConnection], str | None],
        bodies: Bodies,
        files: Files,
        sessions: Sessions,
        upload_bytes: int,
        stored_bytes: int,
        traffic: Traffic,
        mcp: bool,
        proxied: bool = False,
    ) -> None:
        self.app = app
        self.origins = origins
        self.calls = calls
        self.replies = replies
        self.user = user
        self.bodies = bodies
        self.files = files
        self.sessions = sessions
        self.upload_bytes = upload_bytes
        self.stored_bytes = stored_bytes
        self.traffic = traffic
        self.mcp = mcp
        self._requests = Slots(MOST_REQUESTS)
        self._proxy_is_known = proxied

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

        try:
            self.origins.check(scope, path)
            check_path(path)
            await self._counted(path, scope, receive, send_own)
        except RefusedToolCall as refused:
            await refused.response()(scope, receive, send_own)
        except ServiceError as error:
            await self.replies.refusal(path, error)(scope, receive, send_own)

    async def _counted(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it if its visitor has not too many requests already. Raises Busy."""
        request = HTTPConnection(scope)
        if not self._proxy_is_known and "x-forwarded-for" in request.headers:
            self._proxy_is_known = True
            _log.warning("requests come through a proxy, whose visitors share one visitor's part: see --trusted-proxy")
        visitor = name_visitor(scope, self.user(request))
        counted = path not in _ALWAYS
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
        posted = scope["method"] == "POST"
        if self.traffic.closing and posted:
            raise ShuttingDown
        route = path.removeprefix(API) if path.startswith(API) else None
        tools = self.mcp and route in TOOL_ROUTES
        self._require_route(scope, path, route, tools=tools)
        for upload in HTTPConnection(scope).query_params.getlist("upload_id"):
            _require_identifier("upload_id", upload)
        if route is not None and scope["method"] == "GET":
            check_stream(self.sessions.tables, route, scope["query_string"])
        if not posted:
            await self.app(scope, receive, send)
            return
        limit = JSON_BYTES
        if path.startswith("remote/"):
            limit = self.upload_bytes
        elif route is not None and route.startswith("upload"):
            limit = upload_limit(self.upload_bytes)
        elif tools:
            limit = tool_bytes(self.upload_bytes)
        with self.bodies.coming(scope[VISITOR], receive, limit, scope) as body:
            if route is not None and route.startswith("upload"):
                await self._upload(body, scope, send)
                return
            if route is not None and route.startswith(WORK_ROUTES):
                self._require_room()
            if path.startswith("remote/"):  # read there, after the password
                await self.app(scope, body.receive, send)
                return
            whole = await body.read()
            if route is not None:
                self._check(route, parsed(whole), len(whole), scope, tools=tools)
            await self.app(scope, _replay(whole, body.receive), send)

    def _require_route(self, scope: Scope, path: str, route: str | None, *, tools: bool) -> None:
        if path.startswith("monitoring") or not (route is None or tools or route.startswith(ROUTES)):
            raise NotFound("there is no such page")
        if route is not None and route.startswith("file="):
            require_no_url(route.removeprefix("file="))
            leave_range_to_starlette(scope)

    def _check(self, route: str, value: Any, size: int, scope: Scope, *, tools: bool) -> None:
        """Raise ServiceError for JSON that asks for what nobody may have."""
        if tools:
            self._check_tool(value, size)
            return
        if isinstance(value, dict):
            for name in _IDENTIFIERS:
                if value.get(name) is not None:
                    _require_identifier(name, value[name])
        self.files.check(value)
        self.calls.check(route, value)
        if route.startswith(WORK_ROUTES) and isinstance(value, dict):
            self.sessions.require_room(value.get("session_hash"), scope[VISITOR])

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
        """Hand an upload on as it comes. Raises ServiceError for what ends it."""
        self._require_room()

        async def receive() -> Message:
            try:
                message = await body.receive()
            except ServiceError as error:
                # What Gradio's reader of uploads takes as its own: it removes what it wrote.
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
    """The most that a form with uploads may have."""
    return _UPLOADS * upload_bytes + JSON_BYTES


def tool_bytes(upload_bytes: int) -> int:
    """The most that a tool's request may have: two files of the full size, which base64 makes larger by a third."""
    return 2 * (4 * upload_bytes // 3) + JSON_BYTES


def _require_identifier(name: str, value: object) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise BadRequest(f"{name}: expected at most 64 letters, digits, - and _")


def _replay(body: bytes, receive: Receive) -> Receive:
    """The whole body first, then what comes from `receive`."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
