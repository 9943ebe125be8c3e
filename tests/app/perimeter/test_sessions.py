"""What visitors leave behind: it is bounded, whatever they do not come back for, and the log has one line for each."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio.routes
import httpx
import pytest

from latent_ae.app.gradio_internals import SessionTables
from latent_ae.app.launch import Running
from latent_ae.app.log import OneLine, printable
from latent_ae.app.perimeter import sessions
from latent_ae.service.service import Service
from tests.app.conftest import TinyModels, served
from tests.app.perimeter.test_guard import stream
from tests.app.program import running as program

MOST = 5


@pytest.fixture(scope="module")
def running(service: Service, gradio_folder: Path) -> Iterator[Running]:
    """A server behind a proxy on this machine, which keeps little."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MAX_CLOSED", "MAX_CLOSED_STATES", "_MAX_UPLOADS"):
            patch.setattr(sessions, name, MOST)
        with served(service, trusted_proxy=["127.0.0.1"]) as running:
            yield running


def kept(running: Running) -> dict[str, int]:
    """How much Gradio keeps, by what it is.

    Read from Gradio's own attributes: what SessionTables overlooks would not be seen through it.
    """
    queue, app = running.demo._queue, running.demo.server_app
    uploads = gradio.routes.file_upload_statuses
    return {
        "messages": len(queue.pending_messages_per_session),
        "event ids": len(queue.pending_event_ids_session),
        "events": len(queue.event_ids_to_events),
        "states": len(app.state_holder.session_data),
        "iterators": len(app.iterators) + len(app.iterators_to_reset),
        "uploads": max(len(uploads._statuses), len(uploads._signals)),
    }


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def call(url: str, visitor: str = "192.0.2.1") -> str:
    """The event of a call that nobody has fetched yet."""
    answer = httpx.post(f"{url}gradio_api/call/models", json={"data": []}, headers={"X-Forwarded-For": visitor})
    return answer.json()["event_id"]


def test_results_that_nobody_fetches_go_and_those_of_others_stay(running: Running) -> None:
    url = running.url
    one = call(url, "192.0.2.2")
    for number in range(4 * MOST):
        call(url)
        page = {"fn_index": 1, "data": [], "session_hash": f"page{number}"}
        httpx.post(f"{url}gradio_api/queue/join", json=page)
        httpx.post(f"{url}gradio_api/run/models", json={"data": [], "session_hash": f"direct{number}"})
    until(lambda: kept(running)["events"] == 0)
    call(url)
    until(lambda: kept(running)["events"] == 0)
    assert max(kept(running).values()) <= MOST + 1
    assert stream(url, f"gradio_api/call/models/{one}").startswith("event: complete")


def test_what_is_old_goes_and_open_pages_keep_their_state(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    url = running.url
    theme = next(each["id"] for each in httpx.get(f"{url}config").json()["dependencies"] if len(each["inputs"]) == 1)
    with httpx.stream("GET", f"{url}gradio_api/heartbeat/open") as page:
        assert page.status_code == 200
        for session in ("open", "closed"):
            body = {"data": [None], "fn_index": theme, "session_hash": session}
            httpx.post(f"{url}gradio_api/run/x", json=body)
        states = running.demo.server_app.state_holder.session_data
        assert {"open", "closed"} <= set(states)
        monkeypatch.setattr(sessions, "KEEP_SECONDS", 0.0)
        until(lambda: set(states) == {"open"})
        until(lambda: kept(running)["messages"] == 0)
    until(lambda: not states)


def test_progress_of_uploads_is_kept_for_few(running: Running) -> None:
    for number in range(3 * MOST):
        httpx.post(f"{running.url}gradio_api/upload?upload_id=u{number}", files={"files": b"x"})
    until(lambda: kept(running)["uploads"] <= MOST)


class Call:
    """One that waits in Gradio's queue."""

    def __init__(self, visitor: str, number: int) -> None:
        self.visitor, self.number = visitor, number
        self.session_hash = f"{visitor} {number}"
        self.request = self
        self.scope = {"latent_ae.visitor": visitor}


def test_calls_that_wait_are_bounded_by_visitor(
    running: Running, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = SessionTables(running.demo, running.demo.server_app).events
    for number in range(2 * service.limits.queue):  # half of the places
        monkeypatch.setitem(events, f"waiting{number}", Call("127.0.0.1", number))
    answer = httpx.post(f"{running.url}gradio_api/call/models", json={"data": []})
    assert answer.status_code == 503
    assert "busy" in answer.text
    other = {"X-Forwarded-For": "192.0.2.1"}
    assert httpx.post(f"{running.url}gradio_api/call/models", json={"data": []}, headers=other).status_code == 200


def test_visitors_take_turns_in_the_queue() -> None:
    line = [Call("a", 0), Call("a", 1), Call("a", 2), Call("b", 0), Call("c", 0), Call("b", 1)]
    turns = [(each.visitor, each.number) for each in sessions.in_turns(line)]
    assert turns == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)]


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "a\n", "é", 7, ["x"]])
def test_identifiers_are_short_words(running: Running, name: Any) -> None:
    url = running.url
    for route, body in (
        ("queue/join", {"data": [], "fn_index": 0, "session_hash": name}),
        ("run/models", {"data": [], "session_hash": name}),
        ("cancel", {"session_hash": name, "fn_index": 0, "event_id": "x"}),
    ):
        answer = httpx.post(f"{url}gradio_api/{route}", json=body)
        assert (answer.status_code < 500, answer.json()["error"]) == (True, "bad_request")
    if isinstance(name, str):
        assert httpx.get(f"{url}gradio_api/upload_progress", params={"upload_id": name}).status_code == 400
        answer = httpx.post(f"{url}gradio_api/upload", params={"upload_id": name}, files={"files": b"x"})
        assert answer.status_code == 400


def test_a_line_of_the_log_is_one_line() -> None:
    assert printable("a\nb\x1b[31m\r\u2028") == "a\\nb\\x1b[31m\\r\\u2028"
    assert len(printable("x" * 10_000)) < 700
    import logging

    record = logging.LogRecord("a", 30, "f", 1, "evil\nline %s", ("\x1b",), None)
    assert "\n" not in OneLine().format(record)


FORM = "multipart/form-data; boundary=x"
HEAD = b"--x\r\nContent-Disposition: form-data%s\r\n\r\ndata"
BROKEN = {
    "no form": (b"x", "text/plain"),
    "no end": (HEAD % b'; name="files"; filename="a"', FORM),
    "no boundary": (b"--x--\r\n", "multipart/form-data"),
    "another boundary": (b"--y\r\n\r\n--y--\r\n", FORM),
    "a field for files": (HEAD % b'; name="files"' + b"\r\n--x--\r\n", FORM),
    "no name": (HEAD % b"" + b"\r\n--x--\r\n", FORM),
}


@pytest.mark.slow
def test_what_visitors_do_wrong_is_at_most_a_line_each(tiny_models: TinyModels, tmp_path: Path) -> None:
    with program("--model", tiny_models.kl, cwd=tmp_path) as (process, url):
        asked = 0
        for body, kind in BROKEN.values():
            for query in ("", "?upload_id=a"):
                asked += 1
                answer = httpx.post(f"{url}gradio_api/upload{query}", content=body, headers={"Content-Type": kind})
                assert answer.status_code in (200, 400), answer.text
        for path in ("queue/data?session_hash=nobody", "call/encode/nobody", "call/v2/encode/nobody"):
            asked += 1
            httpx.get(f"{url}gradio_api/{path}")
        for route, sent in (
            ("call/encode", {"data": ["x" * 10_000, "a\nb"]}),
            ("run/encode", {"data": []}),
            ("call/v2/encode", {"nothing": "x" * 10_000}),
            ("queue/join", {"data": [], "fn_index": 10**9, "session_hash": "a"}),
            ("queue/join", {"data": [1] * 100, "fn_index": 12, "session_hash": "b"}),
            ("run/%0Anothing", {"data": []}),
            ("cancel", {"session_hash": "a", "fn_index": 0, "event_id": "b"}),
        ):
            asked += 1
            answer = httpx.post(f"{url}gradio_api/{route}", json=sent)
            if "event_id" in answer.text:
                httpx.get(f"{url}gradio_api/queue/data?session_hash=b")
        address = httpx.URL(url)
        for data in (
            b"\x00\x01\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        ):
            asked += 1
            with socket.create_connection((address.host, address.port), timeout=20) as connection:
                connection.sendall(data)
                connection.recv(1000)
        said = process.said()
        lines = said[said.index("serving on") :].splitlines()[1:]
        assert "Traceback" not in said, said
        assert all(len(line) < 800 for line in lines), said
        assert len(lines) <= asked, said
        assert json.dumps(said).isascii()
