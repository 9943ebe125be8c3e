"""Who takes a place at /remote and does not use it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from latent_ae.service import Service, ServiceLimits
from tests.app.conftest import TinyModels, load_service
from tests.app.pictures import pixels, png

LIMITS = ServiceLimits(queue=2, deadline_seconds=3.0)


@pytest.fixture(scope="module")
def narrow(tiny_models: TinyModels, gradio_folder: Path) -> Iterator[tuple[str, Service]]:
    """A server with two places, and its service."""
    from demo import create_demo
    from launch import launch

    service = load_service(tiny_models, LIMITS)
    running = launch(create_demo(service), service, port=0)
    yield running.url, service
    running.close()


def sending(url: str, body: bytes, length: int) -> socket.socket:
    """A connection that has sent `body` of a request that says it has `length` bytes."""
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port), timeout=60)
    connection.sendall(b"POST /remote/encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length + body)
    return connection


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ready(url: str) -> int:
    return httpx.get(f"{url}readyz").status_code


def test_who_does_not_send_what_it_promised_keeps_its_place_no_longer_than_a_request_may_take(
    narrow: tuple[str, Service],
) -> None:
    url, _ = narrow
    idle = [sending(url, b"x", 1000) for _ in range(LIMITS.queue)]
    until(lambda: ready(url) == 503)
    assert httpx.post(f"{url}remote/encode", content=b"x").json()["error"] == "busy"
    for connection in idle:
        answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 504")
        connection.close()
    assert ready(url) == 200
    assert httpx.post(f"{url}remote/encode", content=png(pixels(8, 8))).status_code == 200


def test_who_leaves_ends_its_work(narrow: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    url, service = narrow
    entered, left = threading.Event(), threading.Event()

    def encode_tensor(_: object, *, tick: Callable[[float], None]) -> None:
        entered.set()
        while True:
            if left.is_set():
                tick(0.5)
            time.sleep(0.01)

    monkeypatch.setattr(service._models["tiny-kl"].codec, "encode_tensor", encode_tensor)
    monkeypatch.setattr(service._door, "_seconds", 600.0)
    image = png(pixels(8, 8))
    connection = sending(url, image, len(image))
    assert entered.wait(60)
    connection.close()
    until(lambda: service.stats().inside == 0)
    left.set()
    until(lambda: service.stats().running == 0)
    assert service.stats().requests["encode_tensor", "cancelled"] == 1
    assert ready(url) == 200
