"""Who takes a place and does not use it, or takes all of them."""

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from latent_ae.app.perimeter import bodies, connections
from latent_ae.inference import Codec
from latent_ae.service.errors import Busy
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service
from tests.app.conftest import TinyModels, load_service, served
from tests.app.pictures import pixels, png

LIMITS = ServiceLimits(queue=4)


@pytest.fixture(scope="module")
def narrow(tiny_models: TinyModels, gradio_folder: Path) -> Iterator[tuple[str, Service]]:
    """A server with four places behind a proxy on this machine, and its service."""
    with load_service(tiny_models, LIMITS) as service, served(service, trusted_proxy=["127.0.0.1"]) as running:
        yield running.url, service


def connected(url: str, data: bytes = b"") -> socket.socket:
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port), timeout=60)
    connection.sendall(data)
    return connection


def sending(url: str, body: bytes, length: int, path: str = "/remote/encode") -> socket.socket:
    """A connection that has sent `body` of a request that says it has `length` bytes."""
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}"]
    head += ["Content-Type: multipart/form-data; boundary=x", "", ""]
    return connected(url, "\r\n".join(head).encode() + body)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ready(url: str) -> int:
    return httpx.get(f"{url}readyz").status_code


def encode(url: str, visitor: str = "192.0.2.1") -> httpx.Response:
    return httpx.post(f"{url}remote/encode", content=png(pixels(8, 8)), headers={"X-Forwarded-For": visitor})


def ended(connection: socket.socket) -> bytes:
    """What came before the server ended the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(10_000):
            came += data
    connection.close()
    return came


@pytest.mark.parametrize("path", ["/remote/encode", "/gradio_api/upload", "/gradio_api/call/models", "/login"])
def test_bodies_that_do_not_come_hold_no_place_and_end(
    narrow: tuple[str, Service], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = narrow
    idle = [sending(url, b"--x\r\n", 1000, path) for _ in range(3 * LIMITS.queue)]
    assert (ready(url), encode(url).status_code) == (200, 200)
    monkeypatch.setattr(bodies, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    idle += [sending(url, b"--x\r\n", 1000, path)]
    answer = ended(idle[-1])
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"too_slow"' in answer
    for connection in idle:
        connection.close()


def test_the_body_that_is_furthest_behind_makes_room(
    narrow: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = narrow
    idle = [sending(url, b"--x\r\n", 1000, "/gradio_api/upload") for _ in range(bodies.MAX_ARRIVING // 2 + 3)]
    assert idle[0].recv(12) == b"HTTP/1.1 408"
    assert httpx.post(f"{url}gradio_api/upload", files={"files": b"x"}).status_code == 200
    for connection in idle:
        connection.close()


def test_who_leaves_ends_its_work(narrow: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    url, service = narrow
    entered, left = threading.Event(), threading.Event()

    def encode_tensor(*_: object, tick: Callable[[float], None]) -> None:
        entered.set()
        while True:
            if left.is_set():
                tick(0.5)
            time.sleep(0.01)

    monkeypatch.setattr(Codec, "encode_tensor", encode_tensor)
    image = png(pixels(8, 8))
    connection = sending(url, image, len(image))
    assert entered.wait(60)
    connection.close()
    until(lambda: service.stats().inside == 0)
    left.set()
    until(lambda: service.stats().running == 0)
    assert service.stats().requests["encode_tensor", "cancelled"] == 1
    assert ready(url) == 200


def test_one_visitor_gets_half_of_the_places_and_others_the_rest(
    narrow: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, service = narrow
    leave = threading.Event()

    def encode_tensor(*_: object, **__: object) -> None:
        leave.wait(20)
        raise Busy("it is over")

    monkeypatch.setattr(Codec, "encode_tensor", encode_tensor)
    greedy = [threading.Thread(target=encode, args=(url, "192.0.2.1")) for _ in range(LIMITS.queue)]
    for thread in greedy:
        thread.start()
    until(lambda: service.stats().requests.get(("encode_tensor", "busy"), 0) == LIMITS.queue // 2)
    refused = encode(url, "192.0.2.1").json()
    assert refused["error"] == "busy"
    assert f"{LIMITS.queue // 2} of them yours" in refused["message"]
    # Another visitor, by the page's queue and by /remote.
    headers = {"X-Forwarded-For": "192.0.2.2"}
    call = httpx.post(f"{url}gradio_api/call/models", json={"data": []}, headers=headers)
    assert httpx.get(f"{url}gradio_api/call/models/{call.json()['event_id']}").text.startswith("event: complete")
    other = threading.Thread(target=encode, args=(url, "192.0.2.2"))
    other.start()
    until(lambda: service.stats().inside == LIMITS.queue // 2 + 1)
    assert ready(url) == 200
    leave.set()
    for thread in (*greedy, other):
        thread.join()
    assert service.stats().inside == 0


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"])
def test_a_connection_without_a_request_ends(
    narrow: tuple[str, Service], sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = narrow
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    assert ended(connected(url, sent)) == b""


def test_what_follows_an_answer_keeps_no_connection(
    narrow: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that nobody reads, sent drop by drop: uvicorn takes each drop for a sign of life."""
    url, _ = narrow
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    connection = connected(url, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")

    def drop() -> bool:
        """Whether the connection has ended."""
        try:
            connection.sendall(b"x")
        except OSError:
            return True
        return False

    until(drop)
    connection.close()


def test_an_answer_that_nobody_reads_keeps_no_connection(
    narrow: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = narrow
    stored = httpx.post(f"{url}gradio_api/upload", files={"files": bytes(20_000_000)}).json()[0]
    monkeypatch.setattr(connections, "READ_SECONDS", 0.3)
    connection = connected(url, f"GET /gradio_api/file={stored} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    time.sleep(1.5)
    assert len(ended(connection)) < 20_000_000
    assert len(httpx.get(f"{url}gradio_api/file={stored}").content) == 20_000_000


class Held:
    """A connection as `Connections` sees it."""

    def __init__(self, host: str, *, idle: bool = True) -> None:
        self.host = host
        self.idle = idle
        self.transport = self
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


def test_connections_are_bounded_by_address_and_idle_ones_make_room() -> None:
    places = connections.Connections(8, is_proxy=lambda host: host == "10.0.0.1")
    busy = [Held("192.0.2.1", idle=False) for _ in range(4)]
    assert all(places.admit(connection) for connection in busy)
    other = Held("192.0.2.2")
    assert places.admit(other)
    assert not places.admit(Held("192.0.2.1"))
    assert not other.aborted
    idle = [Held(f"2001:db8::{number}") for number in range(1, 8)]
    assert all(places.admit(connection) for connection in idle)
    assert [connection.aborted for connection in idle] == [True] * 5 + [False] * 2
    for connection in busy:
        places.left(connection)
    assert all(places.admit(Held("10.0.0.1", idle=False)) for _ in range(5))


@pytest.mark.parametrize(
    ("given", "refused", "raised", "count"),
    [
        pytest.param((1024, 1_048_576), False, 2148, 1024, id="Linux"),
        pytest.param((1024, 1124), False, 1124, 512, id="Linux with a low hard limit"),
        pytest.param((256, resource.RLIM_INFINITY), False, 2148, 1024, id="macOS"),
        pytest.param((256, resource.RLIM_INFINITY), True, 256, 78, id="macOS refuses"),
        pytest.param((resource.RLIM_INFINITY,) * 2, False, resource.RLIM_INFINITY, 1024, id="no limit"),
    ],
)
def test_descriptors_are_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], refused: bool, raised: int, count: int
) -> None:
    limits = [given]

    def setrlimit(_: int, new: tuple[int, int]) -> None:
        if refused:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(new)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert connections.descriptors() == count
    assert limits[-1] == (raised, given[1])
