"""Checks of the JSON sent to Gradio's routes and tools.

Gradio 6.31 does not check it: an unknown function, a missing parameter or an unknown session becomes an exception, a
500 and a trace in the log, and it opens the files and fetches the addresses that it is given.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs

import gradio as gr

from latent_ae.app.gradio_internals import Function, Preprocess, SessionTables, functions_of, wrap_preprocess
from latent_ae.app.perimeter.bodies import require_size
from latent_ae.app.perimeter.error_replies import Replies
from latent_ae.service.errors import BadRequest, ServiceError

_MAX_NAME = 255
"""Maximum length of a file's name in bytes: file systems refuse longer ones. Messages are cut to it too."""
_MAX_DEPTH = 32


class NotFound(ServiceError):  # noqa: N818 - named as HTTP names it
    """A page, a function, a session or a result does not exist."""

    code = "not_found"
    status = 404


class Calls:
    """Checks calls of the page's functions and of the endpoints."""

    def __init__(self, demo: gr.Blocks, replies: Replies) -> None:
        self._functions = functions_of(demo)
        wrap_preprocess(demo, functools.partial(_with_clear_errors, replies))

    def check(self, route: str, body: Any) -> None:
        """Raise NotFound or BadRequest for a malformed call at a route below /gradio_api/."""
        kind, _, name = route.rstrip("/").partition("/")
        if kind not in ("call", "run") and route.rstrip("/") != "queue/join":
            return
        if not isinstance(body, dict):
            raise BadRequest("expected a JSON object in the request's body")
        if kind == "call" and name.startswith("v2/"):
            self._check_named(name.removeprefix("v2/"), body)
        else:
            self._check_listed(kind, name, body)

    def _check_named(self, name: str, body: dict[str, Any]) -> None:
        """Check values by name of an endpoint's parameters."""
        function = self._named(name)
        if function.has_default is None:
            raise self._unknown(name)
        takes = ", ".join(function.has_default) or "nothing"
        if unknown := [given for given in body if given not in function.has_default]:
            raise BadRequest(f"{name} has no parameter {unknown[0][:40]!r}; it takes {takes}")
        if missing := [each for each, default in function.has_default.items() if not default and each not in body]:
            raise BadRequest(f"{name} needs {', '.join(missing)}; it takes {takes}")
        _check_values(function, body)

    def _check_listed(self, kind: str, name: str, body: dict[str, Any]) -> None:
        """Check the list `data` of values for a function named in the path or numbered in the body."""
        number, data = None if kind == "call" else body.get("fn_index"), body.get("data")
        if number is None and name and kind != "queue":
            function = self._named(name)
        elif not isinstance(number, int) or isinstance(number, bool):
            raise BadRequest("expected fn_index as the number of a function")
        elif number not in self._functions:
            raise NotFound(f"there is no function {str(number)[:20]}")
        else:
            function = self._functions[number]
        if not isinstance(data, list):
            raise BadRequest("expected data as a list of values")
        if body.get("batched"):
            raise BadRequest("batched calls are not supported: leave batched out")
        expected = {function.inputs, function.api_inputs} if kind == "call" else {function.inputs}
        if len(data) not in expected:
            raise BadRequest(f"data has {len(data)} values, expected {' or '.join(map(str, sorted(expected)))}")
        if kind == "call" and hasattr(function.call, "check"):
            _check_values(function, dict(zip(function.parameters, data, strict=True)))

    def _named(self, name: str) -> Function:
        if name not in self._functions:
            raise self._unknown(name)
        return self._functions[name]

    def _unknown(self, name: str) -> NotFound:
        endpoints = [
            each
            for each, function in self._functions.items()
            if isinstance(each, str) and function.has_default is not None
        ]
        return NotFound(f"there is no endpoint {name[:40]!r}; there are {', '.join(endpoints)}")


def check_stream(tables: SessionTables, route: str, query: bytes) -> None:
    """Raise NotFound or BadRequest for a GET, at a route below /gradio_api/, of results that do not exist."""
    if route == "queue/data":
        session = parse_qs(query.decode("latin-1")).get("session_hash", [""])[-1]
        if not session:
            raise BadRequest("session_hash is missing")
        if session not in tables.messages:
            raise NotFound("there is no such session, or it has no calls")
    elif route.startswith("call/") and not tables.knows_event(route.rpartition("/")[2]):
        raise NotFound("there is no such call, or its result was already fetched")


def check_files(value: Any, folder: Path, depth: int = 0) -> None:
    """Raise BadRequest unless every file that a request names was uploaded to `folder`."""
    if depth > _MAX_DEPTH:
        raise BadRequest(f"the request is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict) and "path" in value:
        require_no_url(value["path"])
        uploaded(value["path"], folder)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        check_files(each, folder, depth + 1)


def check_arguments(arguments: Any, folder: Path, upload_bytes: int) -> None:
    """The same for the arguments of a tool, whose files are data: URIs. Raises TooLarge too."""
    for argument in arguments.values() if isinstance(arguments, dict) else ():
        require_no_url(argument)
        if isinstance(argument, str):
            decoded = 3 * (len(argument) - argument.find(",") - 1) // 4 - argument[-2:].count("=")  # of base64
            require_size(decoded, upload_bytes)
    check_files(arguments, folder)


def uploaded(path: object, folder: Path) -> Path:
    """The path of a file that was uploaded to `folder`, which need not exist. Raises BadRequest for any other."""
    if not isinstance(path, str) or "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise BadRequest("the file was not uploaded to this server: upload it first")
    return Path(path)


def require_no_url(path: object) -> None:
    """Raise BadRequest for an address, which Gradio would fetch."""
    if str(path).strip().lower().startswith(("http://", "https://")):
        raise BadRequest("addresses are not fetched: upload the file; tools send it as a data: URI")


def check_path(path: str) -> None:
    """Raise NotFound for a path that is too long for any file system, which Gradio would look up."""
    if any(len(part.encode("utf-8", "replace")) > _MAX_NAME for part in path.split("/")):
        raise NotFound("there is no such page")


def parsed(body: bytes) -> Any:
    """The value of strict JSON: no NaN, infinity or text that UTF-8 cannot encode. Raises BadRequest."""
    try:
        value = json.loads(body, parse_constant=_refuse, parse_float=_finite)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeError, RecursionError):
        raise BadRequest("the JSON in the request's body is nested too deep, or is not valid Unicode") from None
    except ValueError as error:
        raise BadRequest(f"expected JSON in the request's body: {str(error)[:80]}") from None
    return value


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        _refuse(text)
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:20]} is not a JSON number")


def _check_values(function: Function, values: dict[str, Any]) -> None:
    """Raise the BadRequest that the endpoint itself would report only in the stream of its result."""
    for name, value in values.items():
        function.call.check(name, value)


def _with_clear_errors(replies: Replies, preprocess: Preprocess) -> Preprocess:
    """Gradio's step from a request's values to a function's arguments, with clear errors."""

    async def checked(*arguments: Any, **named: Any) -> Sequence[Any]:
        try:
            return await preprocess(*arguments, **named)
        except gr.Error as error:
            why = "".join(letter if letter.isprintable() else "?" for letter in str(error.message)[:_MAX_NAME])
        except FileNotFoundError:
            why = "a file of the request does not exist: upload it first"
        except OSError:
            raise
        except Exception:  # each component of Gradio fails in its own way for a value of another type
            why = "the values do not have the types of the function's parameters"
        replies.count("gradio_api/call/", "bad_request")
        raise gr.Error(f"bad_request: {why}", duration=None, print_exception=False) from None

    return checked
