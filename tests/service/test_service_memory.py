"""Memory: what does not fit is refused before any work, and looking whether it fits costs next to nothing."""

import pytest

from latent_ae.config import ModelConfig
from latent_ae.inference import Codec, batching, strips
from latent_ae.models import build_autoencoder
from latent_ae.service.errors import TooLarge
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.remote import RemoteEncode
from latent_ae.service.service import Service
from tests.inference.side_runs import predictions, runs

from .conftest import closing, pixels, png, tiny


def test_an_images_size_costs_no_run_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Codec(tiny(), name="kl", precision="fp32")
    with closing(Service({"kl": codec})) as service:
        predicted = predictions(monkeypatch)
        for side in (8, 12, 20, 24):
            image = png(pixels(side, 16))
            service.reconstruct(image)
            service.decode(service.encode(image).file)
            service.sample(count=1, size=side)
            service.encode_tensor(RemoteEncode(image))
    assert len(predicted) == 2  # of an ordinary image, once a side


def test_what_cannot_be_decoded_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "STREAMED_PIXELS", 1)  # in strips, which take least
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "_BAND_BYTES", 1)
    model = build_autoencoder(ModelConfig(preset="tiny", image_channels=3), seed=0, resolution=16)
    plan = Codec(model, name="kl", precision="fp32").plan(96, 96)
    assert plan.encode_bytes < plan.decode_bytes
    codec = Codec(model, name="kl", precision="fp32", memory_bytes=plan.decode_bytes - 1)
    with closing(Service({"kl": codec}, limits=ServiceLimits(memory_bytes=plan.decode_bytes - 1))) as service:
        predicted, ran = predictions(monkeypatch), runs(monkeypatch)
        with pytest.raises(
            TooLarge, match=r"would take about \d+ MiB of memory, and \d MiB are free: try one of 9\dx9\d"
        ):
            service.reconstruct(png(pixels(96, 96)))
        assert predicted
        assert ran == []
        assert service.encode(png(pixels(96, 96))).latents.count == 1


def test_what_does_not_fit_into_memory_is_refused_before_the_work(kl: Codec) -> None:
    limits = ServiceLimits(memory_bytes=200_000)
    with pytest.raises(ValueError, match="expected a codec with memory_bytes=200000, got None"):
        Service({"kl": kl}, limits=limits)
    small = Codec(tiny(), name="kl", precision="fp32", memory_bytes=200_000)
    with closing(Service({"kl": small}, limits=limits)) as service:
        with pytest.raises(TooLarge, match=r"would take about \d+ MiB of memory, and 0 MiB are free"):
            service.reconstruct(png(pixels(200, 200)))
        with pytest.raises(TooLarge):
            service.sample(count=1, size=200)
        assert service.stats().requests == {("reconstruct", "too_large"): 1, ("sample", "too_large"): 1}
