"""Errors of every route in one form: JSON {"error": code, "message": sentence}, without a trace, and counted."""

import json
import logging
import re
from collections import Counter
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latent_ae.app.gradio_internals import CLIENT_ERROR_PATHS, queue_error_detail
from latent_ae.service.errors import BadRequest, ServiceError

_ROUTES = {
    "gradio_api/queue/": "queue",
    "gradio_api/call/": "call",
    "gradio_api/run/": "call",
    "gradio_api/upload": "upload",
    "gradio_api/file": "file",
    "gradio_api/mcp": "tool",
    "remote/": "remote",
}
"""what is counted together, by how paths start; all else is `page`"""
_QUEUE = "gradio_api/queue/join"
_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    416: "bad_range",
    503: "busy",
}
_SENTENCES = {
    401: "name and password are asked for",
    403: "this is not a file that was uploaded here or made for you",
    404: "there is no such page",
    405: "this page does not take such a request",
    413: "the request is larger than this server takes",
    416: "the file does not have these bytes",
    503: "the server is busy or shutting down: try again later",
}
_TYPED = re.compile(r"([a-z_]+): (.+)", re.DOTALL)
_MOST_BYTES = 1 << 16
"""of an error's body that is looked at"""

_log = logging.getLogger(__name__)


class Replies:
    """Makes the answers to what is refused, and counts them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """errors by kind of route and code, both of a few; changed on the event loop alone"""

    def refusal(self, path: str, error: ServiceError) -> Response:
        """The answer to a request to `path`, without its leading slash, that is refused."""
        return self.answer(path, error.code, str(error), error.status)

    def answer(self, path: str, code: str, message: str, status: int, detail: object = None) -> Response:
        """An error as JSON; on Gradio's routes its page and clients find the sentence where they look for it.

        `detail` is what they look for where it is not the sentence.
        """
        self.count(path, code)
        content: dict[str, object] = {"error": code, "message": message}
        if path.rstrip("/") == _QUEUE and 400 <= status < 500 and status not in (401, 403, 405):
            status, content["detail"] = 422, queue_error_detail(code, message)
        elif path.startswith(CLIENT_ERROR_PATHS) or path == "":
            content["detail"] = message if detail is None else detail
        return JSONResponse(content, status)

    def count(self, path: str, code: str) -> None:
        """Count an error."""
        route = next((name for start, name in _ROUTES.items() if path.startswith(start)), "page")
        self.counts[route, code] += 1


class RefusedToolCall(Exception):  # noqa: N818 - not an error of the server
    """A refused call of a tool, answered as its result: another status would end the session of the client."""

    def __init__(self, call: object, error: ServiceError) -> None:
        super().__init__(str(error))
        self._content = [{"type": "text", "text": f"{error.code}: {error}"}]
        self._call = call

    def response(self) -> Response:
        """What the client shows to its model."""
        result = {"content": self._content, "isError": True}
        return JSONResponse({"jsonrpc": "2.0", "id": self._call, "result": result})


class ErrorReplies:
    """ASGI middleware behind the guard and in front of all of Gradio: brings every error into the one form."""

    def __init__(self, app: ASGIApp, *, replies: Replies) -> None:
        self.app = app
        self.replies = replies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on; an answer that is an error is held until it is whole, and made anew."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        start: Message | None = None
        held = False
        body = bytearray()

        async def hold(message: Message) -> None:
            nonlocal start, held
            if message["type"] == "http.response.start":
                start, held = message, message["status"] >= 400
            if not held:
                await send(message)
            elif len(body) < _MOST_BYTES:
                body.extend(message.get("body", b""))

        failure: Exception | None = None
        try:
            await self.app(scope, receive, hold)
        except Exception as error:
            failure = error
        if start is not None and not held:
            if failure is not None:  # a stream, which has said what went wrong
                _log.warning("the answer of %s broke off: %s", path[:80], " ".join(str(failure).split())[:200])
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if failure is not None or start is None:
            answer = self._failed(path, failure)
        else:
            answer = self._converted(path, start, bytes(body))
        await answer(scope, receive, _without_body(send, scope))

    def _failed(self, path: str, failure: Exception | None) -> Response:
        """The answer where Gradio raised an exception, or nothing was answered."""
        if path.startswith("gradio_api/upload") and failure is not None and not isinstance(failure, OSError):
            # Gradio's reader of uploads takes for granted that parts have what parts of files have.
            return self.replies.refusal(path, BadRequest("the upload cannot be read: expected multipart/form-data"))
        _log.error("%s failed", path[:80], exc_info=failure)
        return self.replies.answer(path, "internal", "the server failed at this request; its log says more", 500)

    def _converted(self, path: str, start: Message, body: bytes) -> Response:
        """An error of Gradio or Starlette in the form; one that has it stays as it is."""
        status: int = start["status"]
        headers = MutableHeaders(raw=list(start["headers"]))
        found = _json(body)
        if isinstance(found, dict) and ({"error", "message"} <= found.keys() or "jsonrpc" in found):
            self.replies.count(path, "bad_request" if "jsonrpc" in found else found["error"])
            return Response(body, status, dict(headers))
        code, message, status = _named(status, found)
        detail = found.get("detail") if status == 401 and isinstance(found, dict) else None
        answer = self.replies.answer(path, code, message, status, detail)
        for name in headers:
            if name not in ("content-length", "content-type", "content-encoding", "content-disposition"):
                answer.headers.setdefault(name, headers[name])
        return answer


def _named(status: int, found: Any) -> tuple[str, str, int]:
    """Code, sentence and status of an error of Gradio or Starlette."""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, str) and (typed := _TYPED.fullmatch(error)) and typed[1] in _statuses():
        return typed[1], typed[2], _statuses()[typed[1]]
    if status >= 500 and status != 503:
        return "internal", "the server failed at this request; its log says more", 500
    if status in _CODES:
        return _CODES[status], _SENTENCES[status], status
    return "bad_request", _why(found), 400


def _why(found: Any) -> str:
    """What is wrong with a request, from FastAPI's or Starlette's answer."""
    detail = found.get("detail") if isinstance(found, dict) else found
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = ".".join(str(part) for part in detail[0].get("loc", ())[1:]) or "the request's body"
        return f"{place[:80]}: {str(detail[0].get('msg', 'cannot be read'))[:200].lower()}"
    if isinstance(detail, str) and detail.isprintable() and len(detail) < 200:
        return detail
    return "the request cannot be read"


def _statuses() -> dict[str, int]:
    """Status by code of all errors there are."""
    return {"internal": 500} | {
        kind.code: kind.status for kind in ServiceError.__subclasses__() if hasattr(kind, "code")
    }


def _json(body: bytes) -> Any:
    """What the JSON says, the text of what is none, None for what is neither."""
    try:
        text = body.decode()
        return json.loads(text)
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError):
        return text


def _without_body(send: Send, scope: Scope) -> Send:
    """Send no body to who asked for none."""
    if scope["method"] != "HEAD":
        return send

    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent
