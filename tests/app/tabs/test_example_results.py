"""Results of examples are everybody's, those of uploads are not."""

from pathlib import Path
from threading import Event, Thread

import pytest

from latent_ae.app.tabs.example_results import ExampleResults
from latent_ae.app.tabs.job import Tick
from latent_ae.service.service import Service
from tests.app.pictures import pixels, png, written


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return written(tmp_path / "example.png", png(pixels(16, 16)))


@pytest.fixture
def results(service: Service, example: Path) -> ExampleResults:
    return ExampleResults(service, [example])


def go_on(_share: float) -> None:
    pass


def test_an_example_is_computed_once_for_each_model(
    results: ExampleResults, service: Service, example: Path, tmp_path: Path
) -> None:
    results.prepare()
    before = service.stats().requests
    copy = written(tmp_path / "as-gradio-names-it.png", example.read_bytes())
    made = results.reconstruct(copy, "tiny-kl", go_on)
    assert results.reconstruct(example, "tiny-kl", go_on) is made
    assert results.baselines(made, go_on) is results.baselines(made, go_on)
    assert service.stats().requests == before
    assert results.reconstruct(example, "tiny-vq", go_on).model == "tiny-vq"
    assert service.stats().requests != before


def test_an_example_that_is_there_waits_for_no_other(service: Service, example: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other.png", png(pixels(16, 16, seed=2)))
    results = ExampleResults(service, [example, other])
    made = results.reconstruct(example, "tiny-kl", go_on)
    begun, go = Event(), Event()

    def held(_share: float) -> None:
        begun.set()
        go.wait(60)

    def refused(_share: float) -> None:
        raise AssertionError("it waits")

    thread = Thread(target=results.reconstruct, args=(other, "tiny-kl", held))
    thread.start()
    try:
        assert begun.wait(60)
        assert results.reconstruct(example, "tiny-kl", refused) is made
    finally:
        go.set()
        thread.join()


def test_an_upload_is_computed_for_its_visitor(results: ExampleResults, tmp_path: Path) -> None:
    upload = written(tmp_path / "upload.png", png(pixels(16, 16, seed=1)))
    one, other = (results.reconstruct(upload, "tiny-kl", go_on) for _ in range(2))
    assert one is not other
    count = [0]

    def show() -> dict:
        count[0] += 1
        return {}

    for made in (one, one, other):
        results.shown("pictures", [made], (), show)
    assert count == [3]


def test_files_of_an_example_are_shared_for_a_minute(
    results: ExampleResults, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [results.reconstruct(example, "tiny-kl", go_on)]
    now, drawn = [0.0], iter(range(10))
    monkeypatch.setattr("latent_ae.app.tabs.example_results.time.monotonic", lambda: now[0])

    def show() -> dict:
        return {"picture": {"value": next(drawn)}}

    def seen(settings: int) -> int:
        update = results.shown("pictures", made, settings, show)["picture"]
        return update.pop("value")  # as Gradio does, which must not empty what others are shown

    assert [seen(4), seen(4), seen(5), seen(5)] == [0, 0, 1, 1]
    now[0] = 61.0
    assert [seen(5), seen(5)] == [2, 2]


def test_a_first_visitor_who_leaves_takes_nothing_from_the_next(results: ExampleResults, example: Path) -> None:
    def leave(_share: float) -> None:
        raise InterruptedError

    tick: Tick = leave
    with pytest.raises(InterruptedError):
        results.reconstruct(example, "tiny-kl", tick)
    assert results.reconstruct(example, "tiny-kl", go_on).model == "tiny-kl"
