"""Results that a visitor may come back to."""

import dataclasses
import time

import pytest

from latent_ae.app.tabs.result_cache import Result, ResultCache
from latent_ae.service.results import Reconstruction
from latent_ae.service.service import Service
from tests.app.pictures import pixels, png


@pytest.fixture
def made(service: Service) -> Reconstruction:
    return service.reconstruct(png(pixels(24, 20)), model="tiny-kl")


def test_the_cache_holds_no_more_than_its_bytes_and_always_the_newest(made: Reconstruction) -> None:
    one = made.original.nbytes + made.reconstructed.nbytes + 2 * len(made.encoded.file)
    results = [Result((dataclasses.replace(made),), ()) for _ in range(3)]
    cache = ResultCache(max_bytes=2 * one)
    keys = [cache.put(each) for each in results]
    assert [cache.get(key) is each for key, each in zip(keys, results, strict=True)] == [False, True, True]
    tiny = ResultCache(max_bytes=1)
    assert tiny.get(tiny.put(results[0])) is results[0]


def test_what_many_visitors_are_shown_counts_once(made: Reconstruction) -> None:
    one = made.original.nbytes + made.reconstructed.nbytes + 2 * len(made.encoded.file)
    cache = ResultCache(max_bytes=one)
    keys = [cache.put(Result((made,), ())) for _ in range(3)]
    assert all(cache.get(key) for key in keys)


def test_the_cache_forgets(made: Reconstruction, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr("latent_ae.app.tabs.result_cache.time.monotonic", lambda: now)
    cache = ResultCache(seconds=60)
    key, other = cache.put(Result((made,), ())), cache.put(Result((made,), ("a.png",)))
    cache.drop(key)
    cache.drop(None)
    assert cache.get(key) is None
    assert cache.get(other) == Result((made,), ("a.png",))
    now += 61
    assert cache.get(other) is None
    assert cache.get(None) is None
