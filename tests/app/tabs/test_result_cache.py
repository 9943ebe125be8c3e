"""Results that a visitor may come back to."""

import time

import pytest

from latent_ae.app.tabs.result_cache import ResultCache
from latent_ae.service.results import Reconstruction
from latent_ae.service.service import Service
from tests.app.pictures import pixels, png


@pytest.fixture
def made(service: Service) -> Reconstruction:
    return service.reconstruct(png(pixels(24, 20)), model="tiny-kl")


def test_the_cache_holds_no_more_than_its_bytes_and_always_the_newest(made: Reconstruction) -> None:
    one = made.original.nbytes + made.reconstructed.nbytes + 2 * len(made.encoded.file)
    cache = ResultCache(max_bytes=2 * one)
    keys = [cache.put(made) for _ in range(3)]
    assert [cache.get(key) is made for key in keys] == [False, True, True]
    tiny = ResultCache(max_bytes=1)
    assert tiny.get(tiny.put(made)) is made


def test_the_cache_forgets(made: Reconstruction, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("latent_ae.app.tabs.result_cache.time.monotonic", lambda: now)
    cache = ResultCache(seconds=60)
    key, other = cache.put(made), cache.put(made)
    cache.drop(key)
    cache.drop(None)
    assert cache.get(key) is None
    assert cache.get(other) is made
    now += 61
    assert cache.get(other) is None
    assert cache.get(None) is None
