"""What lies on the server's disk: no more than was allowed, and gone when it is old."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from latent_ae.app import storage
from latent_ae.app.launch import Running
from latent_ae.service.errors import Busy
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service
from tests.app.conftest import TinyModels, load_service, served
from tests.app.perimeter.test_guard import contents, empty_folders, stream
from tests.app.pictures import pixels, png, written

LIMIT = 8000
"""bytes of results, beside what is there"""


def draw(url: str, seed: int) -> httpx.Response:
    """A request whose results have been written when this returns, and what it was told at first."""
    answer = httpx.post(
        f"{url}gradio_api/call/sample", json={"data": [None, 4, seed, 1.0, 16, "normal", None, None, None]}
    )
    if answer.status_code == 200:
        stream(url, f"gradio_api/call/sample/{answer.json()['event_id']}")
    return answer


def bytes_of(files: set[str]) -> int:
    return sum(Path(file).stat().st_size for file in files)


@contextmanager
def limited(models: TinyModels, own: set[str], deadline: float) -> Iterator[Running]:
    with (
        load_service(models, ServiceLimits(deadline_seconds=deadline)) as service,
        served(service, stored_bytes=bytes_of(own) + LIMIT) as running,
    ):
        yield running


@pytest.mark.slow
def test_results_count_among_what_is_stored(tiny_models: TinyModels, gradio_folder: Path) -> None:
    own = contents(gradio_folder)
    with limited(tiny_models, own, deadline=120) as running:
        told = [draw(running.url, 0)]
        one = bytes_of(contents(gradio_folder) - own)
        while told[-1].status_code == 200:
            assert len(told) < 20
            told.append(draw(running.url, len(told)))
        assert (told[-1].status_code, told[-1].json()["error"]) == (503, "busy")
        assert LIMIT < bytes_of(contents(gradio_folder) - own) < LIMIT + 2 * one
        bodies = {"call/models": {}, "run/models": {}, "queue/join": {"fn_index": 0, "session_hash": "a"}}
        for route, body in bodies.items():
            assert httpx.post(f"{running.url}gradio_api/{route}", json={"data": [], **body}).status_code == 503
        assert httpx.post(f"{running.url}gradio_api/upload", files={"files": b"x"}).status_code == 503
        assert httpx.get(f"{running.url}gradio_api/info").status_code == 200


@pytest.mark.slow
def test_the_oldest_results_make_room(
    tiny_models: TinyModels, gradio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_FULL_SECONDS", 0.05)
    own = contents(gradio_folder)
    with limited(tiny_models, own, deadline=0.5) as running:
        draw(running.url, 0)
        first = contents(gradio_folder) - own
        end = time.monotonic() + 60
        while any(Path(file).exists() for file in first):
            assert time.monotonic() < end
            draw(running.url, 1)
        assert own <= contents(gradio_folder)
        end = time.monotonic() + 60
        while draw(running.url, 2).status_code != 200:
            assert time.monotonic() < end


@pytest.mark.slow
def test_no_more_is_stored_than_was_allowed(service: Service, gradio_folder: Path) -> None:
    stored_bytes = bytes_of(contents(gradio_folder)) + 30_000
    with served(service, stored_bytes=stored_bytes) as running:
        # Gradio keeps files of one content once: with different ones a sweep between two uploads changes nothing.
        uploads = [bytes([number]) * 20_000 for number in range(4)]
        answers = [httpx.post(f"{running.url}gradio_api/upload", files={"files": data}) for data in uploads]
        assert [answer.status_code for answer in answers] == [200, 200, 503, 503]
        assert answers[-1].json()["error"] == "busy"


@pytest.mark.slow
def test_old_files_go_and_those_of_the_page_stay(service: Service, gradio_folder: Path, tmp_path: Path) -> None:
    example = written(tmp_path / "example.png", png(pixels(8, 8)))
    with served(service, examples=[example], keep_seconds=1.0) as running:
        own = contents(gradio_folder)
        uploaded = httpx.post(f"{running.url}gradio_api/upload", files={"files": png(pixels(8, 9))}).json()
        started = httpx.post(
            f"{running.url}gradio_api/call/sample", json={"data": [None, 2, 0, 1.0, 8, "normal", None, None, None]}
        ).json()
        lines = stream(running.url, f"gradio_api/call/sample/{started['event_id']}").splitlines()
        results = [file["path"] for file in json.loads(lines[lines.index("event: complete") + 1][6:])[0]]
        assert all(Path(file).is_relative_to(gradio_folder) for file in (*uploaded, *results))
        end = time.monotonic() + 60
        while (contents(gradio_folder) - own or empty_folders(gradio_folder)) and time.monotonic() < end:
            time.sleep(0.2)
        assert contents(gradio_folder) == own
        assert empty_folders(gradio_folder) == []
        assert not set().union(*running.demo.temp_file_sets) - own


def test_the_private_folder_is_gone_afterwards_even_after_an_error() -> None:
    folders = []

    def fail() -> None:
        with storage.private_folder() as folder:
            folders.append(folder)
            assert folder.stat().st_mode & 0o777 == 0o700
            storage.put(folder, "a.png", b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not folders[0].exists()


def test_a_sweep_takes_old_files_and_counts_the_others(tmp_path: Path) -> None:
    own = storage.put(tmp_path, "own.png", b"12")
    kept = {"max_bytes": 100, "spared_seconds": 0}
    young, aged = (storage.Storage(tmp_path, keep_seconds=seconds, **kept) for seconds in (60, 0.4))
    old = storage.put(tmp_path, "old.png", b"345")
    assert (young.stored, asyncio.run(young.sweep()), young.stored) == (3, set(), 5)
    time.sleep(0.5)
    assert (asyncio.run(aged.sweep()), aged.stored) == ({str(old)}, 2)
    assert old.parent.exists()  # it was filled just now, and another file may be on its way
    time.sleep(0.5)
    asyncio.run(aged.sweep())
    assert [own.exists(), old.parent.exists()] == [True, False]


def test_where_space_is_short_a_sweep_takes_the_oldest_that_nobody_is_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [storage.put(tmp_path, "own", b"12345")]
    roomy, full = (
        storage.Storage(tmp_path, max_bytes=most, keep_seconds=60, spared_seconds=spared)
        for most, spared in ((16, 10), (0, 10))
    )
    for name in ("oldest", "older", "new"):
        time.sleep(0.02)
        files.append(storage.put(tmp_path, name, b"12345"))
    # Ten seconds later than the last but one was written, a moment before the last is as old.
    now = (files[2].stat().st_ctime + files[3].stat().st_ctime) / 2 + 10
    monkeypatch.setattr(storage.time, "time", lambda: now)
    assert (asyncio.run(roomy.sweep()), roomy.stored) == ({str(files[1])}, 15)
    assert (asyncio.run(full.sweep()), full.stored) == ({str(files[2])}, 10)
    assert [file.exists() for file in files] == [True, False, False, True]
    full.received += 1
    with pytest.raises(Busy, match="space for uploads and results is full"):
        full.require_room()


def test_two_files_of_one_name_and_content_lie_apart(tmp_path: Path) -> None:
    first, second = storage.put(tmp_path, "../a.png", b"x"), storage.put(tmp_path, "../a.png", b"x")
    assert first != second
    assert first.parent.parent == second.parent.parent == tmp_path
