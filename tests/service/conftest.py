"""Tiny real models of both classes, and a codec that waits where a test wants it to."""

import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latent_ae.config import ModelConfig
from latent_ae.evaluation.metrics.latents import LatentStatistics
from latent_ae.inference import Codec, Decoded
from latent_ae.io.image import Pixels, to_pil
from latent_ae.io.latent_file.latents import Latents
from latent_ae.models import Autoencoder, build_autoencoder
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.service.service import Service

FACTOR = 4
CODES = 12


def tiny(*, channels: int = 3, codes: int | None = None, seed: int = 0) -> Autoencoder:
    """A factor of 4 and 2 latent channels; with `codes` a VQModel."""
    config = ModelConfig(preset="tiny", image_channels=channels, block_out_channels=(4, 4, 8))
    bottleneck = None if codes is None else VQConfig(codebook_size=codes)
    model = build_autoencoder(config, bottleneck, seed=seed, resolution=16)
    if codes is not None:
        with torch.no_grad():  # the stock start lies within 1 / K of the origin: all vectors would have one code
            model.quantize.embedding.weight.mul_(8.0)
    return model


class HeldCodec(Codec):
    """A real codec that counts its calls and, while it is held, waits inside of them and ticks."""

    def __init__(self, model: Autoencoder, *, name: str, tile: int | None = None) -> None:
        super().__init__(model, name=name, precision="fp32", tile=tile)
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.calls: list[tuple[str, int]] = []

    def encode(self, images: Sequence[Pixels], **options: Any) -> list[Latents]:
        self._wait("encode", len(images), options["tick"])
        return super().encode(images, **options)

    def decode_measured(self, latents: Sequence[Latents], **options: Any) -> list[Decoded]:
        self._wait("decode", len(latents), options["tick"])
        return super().decode_measured(latents, **options)

    def _wait(self, what: str, count: int, tick: Callable[[float], None]) -> None:
        self.calls.append((what, count))
        self.entered.set()
        while not self.go_on.wait(0.002):
            tick(0.5)


@pytest.fixture(scope="session")
def kl() -> Codec:
    return Codec(tiny(), name="kl", precision="fp32")


@pytest.fixture(scope="session")
def vq() -> Codec:
    return Codec(tiny(codes=CODES), name="vq", precision="fp32")


@pytest.fixture(scope="session")
def grey() -> Codec:
    return Codec(tiny(channels=1, seed=2), name="grey", precision="fp32")


@pytest.fixture(scope="session")
def codecs(kl: Codec, vq: Codec, grey: Codec) -> dict[str, Codec]:
    """Those of `service`."""
    return {"kl": kl, "vq": vq, "grey": grey}


@pytest.fixture
def service(codecs: dict[str, Codec]) -> Iterator[Service]:
    with closing(Service(codecs)) as made:
        yield made


class closing:  # noqa: N801 - as contextlib's
    """Closes a service even where a test holds its model."""

    def __init__(self, service: Service, *held: HeldCodec) -> None:
        self.service, self.held = service, held

    def __enter__(self) -> Service:
        return self.service

    def __exit__(self, *_: object) -> None:
        for codec in self.held:
            codec.go_on.set()
        self.service.close()


def pixels(height: int = 9, width: int = 14, channels: int = 3, seed: int = 0) -> Pixels:
    """Noise on a slope, which compresses a little."""
    noise = np.random.default_rng(seed).integers(0, 64, (height, width, channels))
    slope = np.linspace(0, 190, width, dtype=np.int64)[None, :, None]
    return (noise + slope).astype(np.uint8)


def png(image: Pixels) -> bytes:
    return saved(image, "PNG")


def saved(image: Pixels, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    to_pil(image).save(stream, kind, **options)
    return stream.getvalue()


def started(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that makes the call, and a list that will hold its result or its exception."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(call())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, box


def in_threads(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The result or the exception of each call, all of which run at the same time."""
    running = [started(call) for call in calls]
    for thread, _ in running:
        thread.join(60)
        assert not thread.is_alive(), "a request is lost"
    return [box[0] for _, box in running]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def with_stats(tmp_path: Path, *, std: float = 1.0, logvar: float | None = -3.0, mean_std: float = 1.0) -> Codec:
    model = tiny()
    model.save_pretrained(tmp_path)
    codec = Codec(model, name=str(tmp_path), precision="fp32")
    means = mean_std * torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    statistics = LatentStatistics()
    statistics.update(std * means, None if logvar is None else torch.full_like(means, logvar))
    stats = {"encoder_identity": codec.identity, **statistics.to_dict()}
    (tmp_path / "latent_stats.json").write_text(json.dumps(stats), encoding="utf-8")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# tiny\n\n---\nwords\n", encoding="utf-8")
    return codec
