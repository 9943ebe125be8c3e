"""Plain HTTP: what a load balancer, Prometheus and diffusers' remote VAE ask."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from latent_ae.app.perimeter.accounts import Accounts
from latent_ae.inference import Codec
from latent_ae.io.image import to_tensor
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service
from tests.app.conftest import TinyModels, load_service, served
from tests.app.pictures import pixels

UPLOAD_BYTES = 1_000_000


def metrics(server: str) -> dict[tuple[str, ...], float]:
    text = httpx.get(f"{server}metrics").text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_running_server_is_alive_and_ready(server: str) -> None:
    assert [httpx.get(server + path).status_code for path in ("healthz", "readyz")] == [200, 200]


@pytest.mark.slow
def test_a_server_with_a_full_queue_is_alive_but_not_ready_and_says_busy(
    tiny_models: TinyModels, gradio_folder: Path
) -> None:
    inside, leave = threading.Event(), threading.Event()

    def tick(_: float) -> None:
        inside.set()
        leave.wait()

    with load_service(tiny_models, ServiceLimits(queue=1)) as service, served(service) as running:
        visitor = threading.Thread(target=lambda: service.sample(count=1, size=8, tick=tick))
        try:
            visitor.start()
            assert inside.wait(60)
            assert httpx.get(f"{running.url}healthz").status_code == 200
            ready = httpx.get(f"{running.url}readyz")
            assert (ready.status_code, ready.json()["error"]) == (503, "busy")
            refused = httpx.post(f"{running.url}remote/encode", content=b"")
            assert (refused.status_code, refused.json()["error"]) == (503, "busy")
            client = Client(running.url, verbose=False)
            with pytest.raises(AppError, match=r"^busy: "):
                client.predict(count=1, size=8, api_name="/sample")
            client.close()
        finally:
            leave.set()
            visitor.join()


def test_metrics_count_requests_by_endpoint_and_outcome(server: str) -> None:
    before = metrics(server)
    assert httpx.post(f"{server}remote/encode", content=b"no image").status_code == 415
    after = metrics(server)
    changed = {name for name, value in after.items() if value != before.get(name, 0)}
    assert {name[-1] for name in changed if name[0] == "latent_ae_requests_total"} == {"unsupported_format"}
    assert after["latent_ae_requests_limit",] == 20
    assert after["latent_ae_requests_inside",] == 0


@pytest.mark.parametrize("model", ["", "/tiny-kl", "/tiny-vq"])
def test_stock_diffusers_encodes_and_decodes_here(server: str, codecs: dict[str, Codec], model: str) -> None:
    codec = codecs[model.strip("/") or "tiny-kl"]
    image = pixels(16, 24)
    latents = remote_encode(f"{server}remote/encode{model}", to_tensor(image)[None])
    decoded = remote_decode(
        f"{server}remote/decode{model}", latents, output_type="pt", return_type="pt", do_scaling=False
    )
    assert torch.equal(decoded, codec.decode_tensor(latents))
    assert latents.shape == (1, codec.latent_channels, 4, 6)
    as_file = remote_encode(f"{server}remote/encode{model}", Image.fromarray(image))
    assert torch.equal(as_file, latents)


def test_stock_diffusers_takes_scaled_latents_and_images_in_its_own_formats(
    server: str, codecs: dict[str, Codec]
) -> None:
    codec, endpoint = codecs["tiny-kl"], f"{server}remote/decode"
    raw = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    scaled = (raw - 0.1) * 0.7
    common = {"scaling_factor": 0.7, "shift_factor": 0.1}
    expected = codec.decode_tensor(scaled / 0.7 + 0.1)
    levels = ((expected + 1) * 127.5).round()[0].movedim(0, -1).numpy()
    lossless = remote_decode(endpoint, scaled, output_type="pil", image_format="png", **common)
    assert np.abs(np.asarray(lossless) - levels).max() <= 0.51
    processed = remote_decode(endpoint, scaled, output_type="pt", partial_postprocess=True, **common)
    assert np.array_equal(np.asarray(processed), np.asarray(lossless))
    processor = VaeImageProcessor()
    unprocessed = remote_decode(endpoint, scaled, processor=processor, output_type="pt", **common)
    assert np.abs(np.asarray(unprocessed).astype(int) - np.asarray(lossless)).max() <= 1
    assert remote_decode(endpoint, scaled, **common).format == "jpeg"


def test_what_is_wrong_is_told_by_status_and_code(server: str) -> None:
    def answer(path: str, data: bytes = b"", **query: object) -> tuple[int, str]:
        response = httpx.post(server + path, content=data, params=query)
        assert response.json().keys() == {"error", "message"}
        return response.status_code, response.json()["error"]

    assert answer("remote/decode/nobody", bytes(16), shape=[1, 4, 1, 1], dtype="float32") == (404, "unknown_model")
    assert answer("remote/decode", bytes(15), shape=[1, 4, 1, 1], dtype="float32") == (400, "bad_request")
    assert answer("remote/decode", bytes(16), shape=[1, 4, 1, 1], dtype="int64") == (400, "bad_request")
    assert answer("remote/decode", b"", shape=[1, 4, 10**6, 10**6], dtype="float32") == (413, "too_large")
    assert answer("remote/encode", bytes(UPLOAD_BYTES + 1)) == (413, "too_large")


def test_methods_and_pages_that_do_not_exist_are_plain_errors(server: str) -> None:
    assert httpx.get(f"{server}remote/decode").status_code == 405
    assert httpx.post(f"{server}healthz").status_code == 405
    assert httpx.get(f"{server}openapi.json").status_code == 404


def test_a_body_without_a_length_is_cut_off_while_it_comes(server: str) -> None:
    host, port = httpx.URL(server).host, httpx.URL(server).port
    sent = 0
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(b"POST /remote/encode HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        # A refusal ends the connection; without one this would go on to 100 times the limit.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while sent < 100 * UPLOAD_BYTES:
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                sent += 0x10000
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    if connection.recv(12) == b"HTTP/1.1 413":
                        break
                connection.settimeout(10)
    assert sent < 50 * UPLOAD_BYTES


@pytest.fixture(scope="module")
def guarded(service: Service, gradio_folder: Path) -> Iterator[str]:
    with served(service, auth=Accounts({"ann": "s:cret"})) as running:
        yield running.url


@pytest.mark.slow
def test_with_accounts_every_route_but_one_asks_for_name_and_password(guarded: str) -> None:
    assert httpx.get(f"{guarded}healthz").status_code == 200
    for method, path in (("GET", "readyz"), ("GET", "metrics"), ("POST", "remote/decode"), ("POST", "remote/encode")):
        for credentials in (None, ("ann", "wrong"), ("bob", "s:cret"), ("", "")):
            response = httpx.request(method, guarded + path, auth=credentials)
            assert (response.status_code, response.json()["error"]) == (401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Basic")
        assert httpx.request(method, guarded + path, auth=("ann", "s:cret")).status_code != 401
    broken = base64.b64encode(b"\xff\xfe:x").decode()
    assert httpx.get(f"{guarded}readyz", headers={"Authorization": f"Basic {broken}"}).status_code == 401


@pytest.mark.slow
def test_behind_a_proxy_everything_lies_under_its_path(service: Service, gradio_folder: Path) -> None:
    with served(service, root_path="/vae") as running:
        assert httpx.get(f"{running.url}config").json()["root"].endswith("/vae")
        for prefix in ("", "vae/"):  # a proxy may take the path away or leave it
            assert httpx.get(f"{running.url}{prefix}readyz").status_code == 200
            assert httpx.get(f"{running.url}{prefix}gradio_api/info").status_code == 200
            assert httpx.get(f"{running.url}{prefix}gradio_api/vibe-code").status_code == 404
            assert httpx.get(f"{running.url}{prefix}gradio_api/file=http://127.0.0.1/").status_code == 400


@pytest.mark.slow
def test_with_accounts_the_endpoints_and_their_description_ask_too(guarded: str) -> None:
    for path in ("config", "gradio_api/info", "gradio_api/openapi.json"):
        assert httpx.get(guarded + path).status_code == 401
    assert httpx.post(f"{guarded}gradio_api/call/models", json={"data": []}).status_code == 401
    assert httpx.post(f"{guarded}gradio_api/upload", files={"files": b"x"}).status_code == 401
    client = Client(guarded, auth=("ann", "s:cret"), verbose=False)
    assert client.predict(api_name="/models")[0]["id"] == "tiny-kl"
    client.close()
