"""Calls of Gradio's functions, and the streams of their results: refused here where Gradio would fail over them.

Gradio 6.31 looks a function up, and hands it its values, without asking first whether either is there: an unknown name,
a missing parameter or an unknown session is an exception of its own, a 500 and a trace in the log.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.types import Scope

from latent_ae.app.perimeter.error_replies import Replies
from latent_ae.service.errors import BadRequest, ServiceError

_LONGEST = 255
"""bytes of a file's name: a longer one cannot even be looked for; characters of what a refusal repeats"""


class NotFound(ServiceError):  # noqa: N818 - named as HTTP names it
    """A page, a function, a session or a result that is not there."""

    code = "not_found"
    status = 404


class Calls:
    """What the page's functions and the endpoints take, by Gradio's own list of them."""

    def __init__(self, demo: gr.Blocks, replies: Replies) -> None:
        self._demo = demo
        self._endpoints: Mapping[str, Any] = demo.get_api_info()["named_endpoints"]
        demo.preprocess_data = _told(demo.preprocess_data, replies)

    def check(self, route: str, body: Any) -> None:
        """Raise NotFound or BadRequest for a call at a route below /gradio_api/ that Gradio would fail over."""
        kind, _, name = route.rstrip("/").partition("/")
        if kind not in ("call", "run") and route.rstrip("/") != "queue/join":
            return
        if not isinstance(body, dict):
            raise BadRequest("expected a JSON object in the request's body")
        if kind == "call" and name.startswith("v2/"):
            self._check_named(name.removeprefix("v2/"), body)
        else:
            self._check_placed(kind, name, body)

    def check_stream(self, route: str, query: bytes) -> None:
        """Raise NotFound or BadRequest for a GET at a route below /gradio_api/ of results that nobody waits for."""
        queue = self._demo._queue
        if route == "queue/data":
            session = parse_qs(query.decode("latin-1")).get("session_hash", [""])[-1]
            if not session:
                raise BadRequest("session_hash is missing")
            if session not in queue.pending_messages_per_session:
                raise NotFound("there is no such session, or nothing of it is waited for")
        elif route.startswith("call/"):
            event = route.rpartition("/")[2]
            # An event without a session of its own is one, and its result is kept when it is done.
            if not (
                event in queue.event_ids_to_events
                or event in queue.pending_messages_per_session
                or any(event in events for events in queue.pending_event_ids_session.values())
            ):
                raise NotFound("there is no such call, or its result was fetched")

    def _check_named(self, name: str, body: dict[str, Any]) -> None:
        """Values by the names of an endpoint's parameters."""
        if (endpoint := self._endpoints.get(f"/{name}")) is None:
            raise self._unknown(name)
        parameters = {each["parameter_name"]: each["parameter_has_default"] for each in endpoint["parameters"]}
        takes = ", ".join(parameters) or "nothing"
        if unknown := [given for given in body if given not in parameters]:
            raise BadRequest(f"{name} has no parameter {unknown[0][:40]!r}; it takes {takes}")
        if missing := [needed for needed, has_default in parameters.items() if not has_default and needed not in body]:
            raise BadRequest(f"{name} needs {', '.join(missing)}; it takes {takes}")
        self._check_values(self._named(name), body)

    def _check_placed(self, kind: str, name: str, body: dict[str, Any]) -> None:
        """Values in a list, `data`, of a function that is named in the path or numbered in the body."""
        function = self._function(kind, name, body)
        data, blocks = body.get("data"), function.inputs
        if not isinstance(data, list):
            raise BadRequest("data is a list of values")
        if body.get("batched"):
            raise BadRequest("calls are not taken in batches: leave batched out")
        wanted = {len(blocks)}
        if kind == "call":  # the page's state may be left out
            wanted.add(sum(not block.skip_api for block in blocks))
        if len(data) not in wanted:
            values = " or ".join(map(str, sorted(wanted)))
            raise BadRequest(f"data has {len(data)} values, and the function takes {values}")
        if kind == "call" and hasattr(function.fn, "check"):
            self._check_values(function, dict(zip(function.input_parameter_names, data, strict=True)))

    def _check_values(self, function: Any, values: dict[str, Any]) -> None:
        """Tell at once what an endpoint would tell in the stream of its result, where Gradio's client looks for it."""
        for name, value in values.items():
            function.fn.check(name, value)

    def _function(self, kind: str, name: str, body: dict[str, Any]) -> Any:
        number = None if kind == "call" else body.get("fn_index")
        if number is None and name and kind != "queue":
            return self._named(name)
        if not isinstance(number, int) or isinstance(number, bool):
            raise BadRequest("fn_index is the number of a function")
        if number not in self._demo.fns:
            raise NotFound(f"there is no function {str(number)[:20]}")
        return self._demo.fns[number]

    def _named(self, name: str) -> Any:
        for function in self._demo.fns.values():
            if function.api_name == name:
                return function
        raise self._unknown(name)

    def _unknown(self, name: str) -> NotFound:
        names = ", ".join(endpoint.removeprefix("/") for endpoint in self._endpoints)
        return NotFound(f"there is no endpoint {name[:40]!r}; there are {names}")


def parsed(body: bytes) -> Any:
    """What strict JSON says: no NaN, no infinity, no text that UTF-8 cannot say. Raises BadRequest."""
    try:
        value = json.loads(body, parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeError, RecursionError):
        raise BadRequest("the JSON in the request's body is nested too deep, or holds what no text can") from None
    except ValueError as error:
        raise BadRequest(f"expected JSON in the request's body: {str(error)[:80]}") from None
    return value


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        _refuse(text)
    return value


def _refuse(text: str) -> None:
    raise ValueError(f"{text[:20]} is none of its numbers")


def check_path(path: str) -> None:
    """Raise NotFound for a path that no file system could have, which Gradio would look for."""
    if any(len(part.encode("utf-8", "replace")) > _LONGEST for part in path.split("/")):
        raise NotFound("there is no such page")


def leave_range_to_starlette(scope: Scope) -> None:
    """Let Starlette answer a request's Range.

    Gradio's own reader of it fails over several ranges, and answers one from its last byte to its first. It only takes
    the unit's name in small letters.
    """
    headers = MutableHeaders(scope=scope)
    if (given := headers.get("range", "")).startswith("bytes="):
        headers["range"] = f"Bytes={given.removeprefix('bytes=')}"


def _told(preprocess: Any, replies: Replies) -> Any:
    """Gradio's step from a request's values to a function's, with an error that the caller understands."""

    async def told(*arguments: Any, **named: Any) -> Sequence[Any]:
        try:
            found: Sequence[Any] = await preprocess(*arguments, **named)
        except gr.Error as error:
            why = "".join(letter if letter.isprintable() else "?" for letter in str(error.message)[:_LONGEST])
        except FileNotFoundError:
            why = "a file that was named is not there: upload it first"
        except OSError:
            raise
        except Exception:
            why = "the values do not have the form that the function takes"
        else:
            return found
        replies.count("gradio_api/call/", "bad_request")
        raise gr.Error(f"bad_request: {why}", duration=None, print_exception=False) from None

    return told
