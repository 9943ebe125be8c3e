"""Which requests reach the app: those of its own pages and of programs, to routes that are needed.

origins --> visitor's share of requests --> route --> body, whole or counted --> its content --> the app
"""

import asyncio
import contextlib
import functools
import gc
import logging
import re
from collections.abc import AsyncIterator, Hashable
from typing import Any

import gradio as gr
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latent_ae.app import gradio_internals
from latent_ae.app.gradio_internals import (
    API,
    ROUTES,
    TOOL_ROUTES,
    WORK_ROUTES,
    SessionTables,
    UploadAborted,
    leave_range_to_starlette,
)
from latent_ae.app.options import ServerOptions
from latent_ae.app.perimeter.access import VISITOR, Origins, name_visitor
from latent_ae.app.perimeter.bodies import Bodies, Body
from latent_ae.app.perimeter.content import (
    Calls,
    NotFound,
    check_arguments,
    check_files,
    check_path,
    check_stream,
    parsed,
    require_no_url,
)
from latent_ae.app.perimeter.error_replies import Replies, path_of, refused_tool_call
from latent_ae.app.perimeter.sessions import Sessions
from latent_ae.app.storage import Storage
from latent_ae.service.admission import Slots
from latent_ae.service.errors import BadRequest, Busy, ServiceError, ShuttingDown
from latent_ae.service.limits import ServiceLimits

JSON_BYTES = 1 << 20
MAX_REQUESTS = 512
"""Requests answered at a time, open streams of pages included; half of them for one visitor."""
_UNCOUNTED = ("healthz", "readyz", "metrics")
_UPLOADS = 4
"""Files of the full size in one request: the largest form of the page has as many inputs."""
_FILE_BYTES = 4096
"""Least space of a file on the disk."""
_FORGET_SECONDS = 1.0
_GARBAGE_BYTES = 16 << 20
"""Bytes of request bodies after which garbage is collected."""
_IDENTIFIER = re.compile(r"[\w-]{1,64}", re.ASCII)
_IDENTIFIERS = ("session_hash", "event_id")
"""Made by the page or the client, and kept by Gradio."""

_log = logging.getLogger(__name__)


class Guard:
    """ASGI middleware in front of Gradio, its middleware and the app's plain routes.

    Gradio's own checks stay behind it. The guard refuses pages of other sites, routes that are not needed (proxy,
    recordings, editor, monitoring, the login cookie's value), URLs to fetch, and bodies that are too large or too slow.
    """

    app: ASGIApp
    """What it guards, known when the server starts."""
    sessions: Sessions
    """The same."""

    def __init__(self, demo: gr.Blocks, limits: ServiceLimits, options: ServerOptions) -> None:
        """Raises UserError for options that are malformed."""
        self.requests = 0
        """Requests not answered yet, without the heartbeats of open pages."""
        self.closing = False
        """Whether the server ends. Set from another thread."""
        self.replies = Replies()
        self.storage = Storage(
            gradio_internals.upload_folder(),
            max_bytes=options.stored_bytes,
            keep_seconds=options.keep_seconds,
            spared_seconds=2 * limits.deadline_seconds,
        )
        self._demo, self._limits, self._mcp, self._accounts = demo, limits, options.mcp, options.auth
        self._origins = Origins(host=options.host, names=options.allow_host, root_path=options.root_path)
        self._calls = Calls(demo, self.replies)
        self._slots = Slots(MAX_REQUESTS)
        size = limits.upload_bytes
        self._bodies = Bodies(max(limits.queue * size, 2 * upload_limit(size)))
        self._proxied = bool(options.trusted_proxy)
        """Whether proxies are known; else the first request through one is logged."""

    @contextlib.asynccontextmanager
    async def lifespan(self, app: gradio_internals.App) -> AsyncIterator[None]:
        """Stand in front of the app before its port opens, and clean up beside the requests."""

        def guarded(inner: ASGIApp) -> ASGIApp:
            self.app = inner
            return self

        self.sessions = Sessions(SessionTables(self._demo, app), max_waiting=4 * self._limits.queue)
        await self.storage.sweep()  # what is there counts from the start
        gradio_internals.put_in_front(app, guarded)
        forget = functools.partial(gradio_internals.forget_files, self._demo)
        tasks = [asyncio.create_task(work) for work in (self.storage.sweep_for_ever(forget), self._forget_for_ever())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web socket is used, and browsers open them without asking
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._origins.own_headers(message, scope)
            await send(message)

        await self.replies.pass_on(self._counted, scope, receive, send_own)

    async def _forget_for_ever(self) -> None:
        """Drop what visitors left in memory."""
        before = self._bodies.received
        while True:
            await asyncio.sleep(_FORGET_SECONDS)
            self.sessions.forget_old()
            # A call that fails leaves its values in a cycle with its stack. Python collects by number of objects, and
            # a few hundred of these hold hundreds of megabytes.
            if self._bodies.received - before > _GARBAGE_BYTES:
                before = self._bodies.received
                gc.collect()

    def _user(self, request: HTTPConnection) -> str | None:
        """The name of the logged in visitor of a request."""
        found = self.sessions.tables.user(request.cookies)
        if found is None and self._accounts is not None:
            return self._accounts.named(request.headers.get("authorization"))
        return found

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request unless it comes from elsewhere, or its visitor has too many already."""
        path, request = path_of(scope), HTTPConnection(scope)
        self._origins.check(scope, path)
        check_path(path)
        if not self._proxied and "x-forwarded-for" in request.headers:
            self._proxied = True
            _log.warning("requests come through a proxy, whose visitors count as one: see --trusted-proxy")
        visitor = name_visitor(scope, self._user(request))
        counted = path not in _UNCOUNTED
        if counted and not self._slots.acquire(visitor):
            raise Busy(f"{self._slots.held_by(visitor)} of your requests are not answered yet: try again in a moment")
        heartbeat = f"{API}heartbeat/"
        session = path.removeprefix(heartbeat) if path.startswith(heartbeat) else None
        self.requests += session is None
        try:
            if session is None:
                await self._answer(path, scope, receive, send)
            else:
                _require_identifier("session_hash", session)
                with self.sessions.page(session, visitor):
                    await self._answer(path, scope, receive, send)
        finally:
            self.requests -= session is None
            if counted:
                self._slots.release(visitor)

    async def _answer(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        if self.closing and (scope["method"] == "POST" or path == "readyz"):
            raise ShuttingDown
        route = path.removeprefix(API) if path.startswith(API) else ""
        tools = self._mcp and route in TOOL_ROUTES
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
        upload, remote, size = route.startswith("upload"), path.startswith("remote/"), self._limits.upload_bytes
        limit = upload_limit(size) if upload else size if remote else tool_bytes(size) if tools else JSON_BYTES
        if upload or route.startswith(WORK_ROUTES):
            self.storage.require_room()
        with self._bodies.arriving(scope[VISITOR], receive, limit, scope) as body:
            if upload:
                await self._upload(body, scope, send)
            elif remote:  # read there, after the password
                await self.app(scope, body.receive, send)
            else:
                whole = await body.read()
                app = self.app
                if tools:
                    app = self._check_tool(parsed(whole), len(whole)) or app
                elif route:
                    self._check(route, parsed(whole), scope[VISITOR])
                await app(scope, body.receive, send)

    def _check(self, route: str, value: Any, visitor: Hashable) -> None:
        """Raise ServiceError for JSON that asks for something that is not allowed."""
        fields = value if isinstance(value, dict) else {}
        for name in _IDENTIFIERS:
            if fields.get(name) is not None:
                _require_identifier(name, fields[name])
        check_files(value, self.storage.folder)
        self._calls.check(route, value)
        if route.startswith(WORK_ROUTES) and isinstance(value, dict):
            self.sessions.require_room(value.get("session_hash"), visitor)

    def _check_tool(self, value: Any, size: int) -> ASGIApp | None:
        """The reply to a refused call of a tool. Raises ServiceError for other requests that are not allowed."""
        self.storage.received += size
        request = value if isinstance(value, dict) else {}
        parameters = request.get("params")
        arguments = parameters.get("arguments") if isinstance(parameters, dict) else None
        call = request.get("method") == "tools/call" and "id" in request
        try:
            if call:
                self.storage.require_room()
            check_arguments(arguments, self.storage.folder, self._limits.upload_bytes)
        except ServiceError as error:
            if not call:
                raise
            return refused_tool_call(request["id"], error)
        return None

    async def _upload(self, body: Body, scope: Scope, send: Send) -> None:
        """Pass an upload on as it arrives. Raises the ServiceError that ends it."""
        ended: ServiceError | None = None

        async def receive() -> Message:
            nonlocal ended
            try:
                message = await body.receive()
            except ServiceError as error:
                ended = error
                raise UploadAborted(str(error)) from None
            data = message.get("body", b"")
            self.storage.received += len(data) + _FILE_BYTES * data.count(b"filename=")
            return message

        async def send_whole(message: Message) -> None:
            if ended is None:
                await send(message)

        await self.app(scope, receive, send_whole)
        if ended is not None:
            raise ended


def upload_limit(upload_bytes: int) -> int:
    """Maximum size of a form with uploads."""
    return _UPLOADS * upload_bytes + JSON_BYTES


def tool_bytes(upload_bytes: int) -> int:
    """Maximum size of a tool's request: two files of the full size, which base64 enlarges by a third."""
    return 2 * (4 * upload_bytes // 3) + JSON_BYTES


def _require_identifier(name: str, value: object) -> None:
    if not isinstance(value, str) or not _IDENTIFIER.fullmatch(value):
        raise BadRequest(f"{name}: expected at most 64 letters, digits, - and _")
