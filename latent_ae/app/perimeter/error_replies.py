"""Errors of every route in one form: JSON {"error": code, "message": sentence}, without a trace, and counted."""

import json
import logging
import re
from collections import Counter
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
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
"""What is counted together, by prefix of the path; everything else is `page`."""
_QUEUE = "gradio_api/queue/join"
_STATUSES = {
    401: ("unauthorized", "a name and password are required"),
    403: ("forbidden", "this is not a file that was uploaded here or made for you"),
    404: ("not_found", "there is no such page"),
    405: ("method_not_allowed", "this page does not take requests of this method"),
    413: ("too_large", "the request is larger than this server allows"),
    416: ("bad_range", "the file does not have these bytes"),
    503: ("busy", "the server is busy or shutting down: try again later"),
}
"""Code and message by status of errors of Gradio and Starlette."""
_INTERNAL = ("internal", "the server failed at this request; its log says more", 500)
_TYPED = re.compile(r"([a-z_]+): (.+)", re.DOTALL)
_MAX_BYTES = 1 << 16
"""Length of an error's body that is read."""

_log = logging.getLogger(__name__)


class Replies:
    """Gives every error the one form, and counts them. On the server's event loop only."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """Errors by route and code."""

    async def pass_on(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an HTTP request on to `app`. What it raises is answered, and an error that it replies is replaced."""
        path, start, failure = path_of(scope), None, None
        body = bytearray()

        async def hold(message: Message) -> None:
            """Send a message on, unless it is one of an error."""
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            if start is None or start["status"] < 400:
                await send(message)
            elif len(body) < _MAX_BYTES:
                body.extend(message.get("body", b""))

        try:
            await app(scope, receive, hold)
        except Exception as error:
            failure = error
        if start is not None and start["status"] < 400:
            if failure is not None:  # a stream, which has said what went wrong
                _log.warning("the answer of %s broke off: %s", path[:80], " ".join(str(failure).split())[:200])
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        failed = failure is not None or start is None
        answer = self._failed(path, failure) if failed else self._converted(path, start or {}, bytes(body))
        await answer(scope, receive, send)

    def count(self, path: str, code: str) -> None:
        """Count an error of a request to `path`, without its leading slash."""
        route = next((name for start, name in _ROUTES.items() if path.startswith(start)), "page")
        self.counts[route, code] += 1

    def _answer(self, path: str, code: str, message: str, status: int, detail: object = None) -> Response:
        """An error as JSON; on Gradio's routes with the message, or `detail`, where its page and clients expect it."""
        self.count(path, code)
        content: dict[str, object] = {"error": code, "message": message}
        if path.rstrip("/") == _QUEUE and 400 <= status < 500 and status not in (401, 403, 405):
            status, content["detail"] = 422, queue_error_detail(code, message)
        elif path.startswith(CLIENT_ERROR_PATHS) or path == "":
            content["detail"] = message if detail is None else detail
        return JSONResponse(content, status)

    def _failed(self, path: str, failure: Exception | None) -> Response:
        """The reply to a request that was refused, that failed, or that had no reply."""
        if isinstance(failure, ClientDisconnect):
            failure = BadRequest("the client left")  # which nobody reads
        elif path.startswith("gradio_api/upload") and not isinstance(failure, ServiceError | OSError | None):
            # Gradio's reader of uploads assumes that all parts are files.
            failure = BadRequest("the upload cannot be read: expected multipart/form-data")
        if isinstance(failure, ServiceError):
            return self._answer(path, failure.code, str(failure), failure.status)
        _log.error("%s failed", path[:80], exc_info=failure)
        return self._answer(path, *_INTERNAL)

    def _converted(self, path: str, start: Message, body: bytes) -> Response:
        """An error of Gradio or Starlette in the one form; an error of ours stays as it is."""
        status: int = start["status"]
        headers = MutableHeaders(raw=list(start["headers"]))
        found = _json(body)
        if isinstance(found, dict) and ({"error", "message"} <= found.keys() or "jsonrpc" in found):
            self.count(path, "bad_request" if "jsonrpc" in found else found["error"])
            return Response(body, status, dict(headers))
        code, message, status = _named(status, found)
        detail = found.get("detail") if status == 401 and isinstance(found, dict) else None
        answer = self._answer(path, code, message, status, detail)
        for name in headers:
            if name not in ("content-length", "content-type", "content-encoding", "content-disposition"):
                answer.headers.setdefault(name, headers[name])
        return answer


def path_of(scope: Scope) -> str:
    """The path of a request below the server's own, without its leading slash."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).lstrip("/")


def refused_tool_call(call: object, error: ServiceError) -> Response:
    """The reply to a refused call of a tool: a result that the client shows to its model.

    An error's status would end the client's session.
    """
    result = {"content": [{"type": "text", "text": f"{error.code}: {error}"}], "isError": True}
    return JSONResponse({"jsonrpc": "2.0", "id": call, "result": result})


def _named(status: int, found: Any) -> tuple[str, str, int]:
    """Code, message and status of an error of Gradio or Starlette."""
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, str) and (typed := _TYPED.fullmatch(error)) and typed[1] in _statuses():
        return typed[1], typed[2], _statuses()[typed[1]]
    if status >= 500 and status != 503:
        return _INTERNAL
    if status in _STATUSES:
        return *_STATUSES[status], status
    return "bad_request", _why(found), 400


def _why(found: Any) -> str:
    """What is wrong with a request, according to FastAPI or Starlette."""
    detail = found.get("detail") if isinstance(found, dict) else found
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):
        place = ".".join(str(part) for part in detail[0].get("loc", ())[1:]) or "the request's body"
        return f"{place[:80]}: {str(detail[0].get('msg', 'cannot be read'))[:200].lower()}"
    if isinstance(detail, str) and detail.isprintable() and len(detail) < 200:
        return detail
    return "the request cannot be read"


def _statuses() -> dict[str, int]:
    """The status of every code."""
    return {"internal": 500} | {
        kind.code: kind.status for kind in ServiceError.__subclasses__() if hasattr(kind, "code")
    }


def _json(body: bytes) -> Any:
    """The JSON value, the text if it is not JSON, None if it is neither."""
    try:
        text = body.decode()
        return json.loads(text)
    except UnicodeDecodeError:
        return None
    except (ValueError, RecursionError):
        return text
