"""Two hundred requests at once: every answer right, every error typed, none lost, and the memory comes back."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.io.image import Pixels
from latent_ae.io.latent_file.latents import from_bytes, to_bytes
from tests.app.conftest import TinyModels
from tests.app.pictures import pixels, png, read
from tests.app.program import running

REQUESTS = 200
PATIENCE = 600
"""seconds; the test is not about speed"""
MODELS = ("tiny-kl", "tiny-vq")
Job = Callable[[httpx.Client], str]
"""asks and compares; returns what came of it"""


@pytest.fixture(scope="module")
def program(tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Process id and address of a server whose queue takes all requests."""
    folder = tmp_path_factory.mktemp("load")
    models = [word for path in tiny_models for word in ("--model", str(path))]
    limits = ("--queue", 2 * REQUESTS, "--deadline-seconds", PATIENCE)  # all come from one address, which gets half
    with running(*models, "--precision", "exact", *limits, cwd=folder) as (process, url):
        yield process.pid, url


def call(client: httpx.Client, endpoint: str, *arguments: object) -> tuple[bool, list | dict]:
    """Whether an endpoint answered, and the data of its answer or its error."""
    event = client.post(f"gradio_api/call/{endpoint}", json={"data": list(arguments)}).json()["event_id"]
    lines = client.get(f"gradio_api/call/{endpoint}/{event}").text.splitlines()
    return "event: complete" in lines, json.loads(lines[-1].removeprefix("data: ") or lines[-2].removeprefix("data: "))


def upload(client: httpx.Client, data: bytes) -> dict:
    path = client.post("gradio_api/upload", files={"files": ("upload", data)}).json()[0]
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def download(client: httpx.Client, file: dict) -> bytes:
    return client.get(f"gradio_api/file={file['path']}").raise_for_status().content


def encode(codec: Codec, model: str, image: Pixels) -> Job:
    (expected,) = codec.encode([image])

    def job(client: httpx.Client) -> str:
        _, (file, _) = call(client, "encode", upload(client, png(image)), model, None, None, False)
        assert torch.equal(from_bytes(download(client, file)).tensor, expected.tensor)
        return "encode"

    return job


def decode(codec: Codec, model: str, image: Pixels) -> Job:
    latents = codec.encode([image])
    (expected,), data = codec.decode(latents), to_bytes(latents[0])

    def job(client: httpx.Client) -> str:
        _, (files, numbers) = call(client, "decode", upload(client, data), None, False)
        assert numbers["model"] == model
        assert np.array_equal(read(download(client, files[0])), expected)
        return "decode"

    return job


def reconstruct(codec: Codec, model: str, image: Pixels) -> Job:
    (expected,) = codec.reconstruct([image])

    def job(client: httpx.Client) -> str:
        _, (file, _, _) = call(client, "reconstruct", upload(client, png(image)), model, False)
        assert np.array_equal(read(download(client, file)), expected)
        return "reconstruct"

    return job


def remote(codec: Codec, model: str, image: Pixels) -> Job:
    (latents,) = codec.encode([image])
    expected = codec.vectors(latents).cpu()

    def job(client: httpx.Client) -> str:
        answer = client.post(f"remote/encode/{model}", content=png(image)).raise_for_status()
        assert json.loads(answer.headers["shape"]) == list(expected.shape)
        assert np.array_equal(np.frombuffer(answer.content, np.float32), expected.numpy().ravel())
        return "remote"

    return job


def malformed(number: int) -> Job:
    good = png(pixels(8, 8, number))
    endpoint, data, model, code = [
        ("encode", good, "nobody", "unknown_model"),
        ("reconstruct", good[:60], "tiny-kl", "broken_image"),
        ("encode", b"text", "tiny-vq", "unsupported_format"),
        ("decode", good, None, "bad_latents"),
    ][number % 4]
    rest = {"encode": (None, None, False), "reconstruct": (False,), "decode": (False,)}[endpoint]

    def job(client: httpx.Client) -> str:
        fine, error = call(client, endpoint, upload(client, data), model, *rest)
        assert not fine
        assert isinstance(error, dict)
        assert error["error"].startswith(f"{code}: ")
        return "malformed"

    return job


def jobs(codecs: dict[str, Codec]) -> list[Job]:
    """A tenth is malformed; the others differ in size, model, endpoint and content."""
    kinds = (encode, decode, reconstruct, remote)
    good = []
    for number in range(REQUESTS - REQUESTS // 10):
        height, width = 8 + number % 3 * 8, 16
        model = MODELS[number // len(kinds) % 2]
        good.append(kinds[number % len(kinds)](codecs[model], model, pixels(height, width, number)))
    bad = [malformed(number) for number in range(REQUESTS // 10)]
    return [job for place in range(10) for job in (*good[place::10], *bad[place::10])]


def at_once(url: str, work: list[Job]) -> Counter[str]:
    def ask(job: Job) -> str:
        # A client each: threads that share one close one another's connections.
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            return job(client)

    with ThreadPoolExecutor(len(work)) as pool:
        return Counter(pool.map(ask, work))


def resident(process: int) -> int:
    """Bytes of memory that a process holds."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE)
def test_two_hundred_requests_at_once_are_each_answered_rightly_and_leave_no_memory_behind(
    program: tuple[int, str], codecs: dict[str, Codec]
) -> None:
    process, url = program
    work = jobs(codecs)
    expected = {"encode": 45, "decode": 45, "reconstruct": 45, "remote": 45, "malformed": 20}
    assert at_once(url, work) == expected  # warms up
    before = resident(process)
    assert at_once(url, work) == expected
    assert resident(process) < 1.1 * before
    assert httpx.get(f"{url}readyz").status_code == 200
