"""Results that a visitor may come back to."""

import time

import pytest

from latent_ae.app.tabs.result_cache import Shelf
from latent_ae.service import Reconstruction, Service
from tests.app.pictures import pixels, png


@pytest.fixture
def made(service: Service) -> Reconstruction:
    return service.reconstruct(png(pixels(24, 20)), model="tiny-kl")


def test_the_shelf_holds_no_more_than_its_bytes_and_always_the_newest(made: Reconstruction) -> None:
    one = made.original.nbytes + made.reconstructed.nbytes + 2 * len(made.encoded.file)
    shelf = Shelf(max_bytes=2 * one)
    keys = [shelf.put(made) for _ in range(3)]
    assert [shelf.get(key) is made for key in keys] == [False, True, True]
    tiny = Shelf(max_bytes=1)
    assert tiny.get(tiny.put(made)) is made


def test_the_shelf_forgets(made: Reconstruction, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("latent_ae.app.tabs.result_cache.time.monotonic", lambda: now)
    shelf = Shelf(seconds=60)
    key, other = shelf.put(made), shelf.put(made)
    shelf.drop(key)
    shelf.drop(None)
    assert shelf.get(key) is None
    assert shelf.get(other) is made
    now += 61
    assert shelf.get(other) is None
    assert shelf.get(None) is None
