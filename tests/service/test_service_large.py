"""Large images at the service: the values of the whole image, an end between strips, memory that runs out."""

import threading

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec
from latent_ae.service.errors import TooLarge
from latent_ae.service.service import Service
from tests.inference.side_runs import in_a_strip, in_strips

from .conftest import CODES, closing, pixels, png, tiny, until


@pytest.mark.parametrize("codes", [None, CODES], ids=["kl", "vq"])
def test_images_of_any_size_are_what_they_are_whole(codes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by the stock model: codes are all equal; pixels differ by no more than a rounding."""
    exact = Codec(tiny(codes=codes), name="exact", precision="exact")
    panorama = [] if codes is None else [(4096, 64)]  # takes seconds
    images = [pixels(*size) for size in [(1, 900), (257, 263), *panorama]]
    expected = [exact.encode([image])[0] for image in images]
    decoded = [exact.decode([latents])[0] for latents in expected]
    in_strips(monkeypatch.setattr)
    with closing(Service({"m": Codec(tiny(codes=codes), name="m", precision="fp32")})) as service:
        for image, latents, wanted in zip(images, expected, decoded, strict=True):
            shares: list[float] = []
            found = service.encode(png(image), tick=shares.append)
            assert shares == sorted(shares)
            torch.testing.assert_close(found.latents.tensor, latents.tensor, rtol=0, atol=1e-5 if codes is None else 0)
            (made,) = service.decode(found.file).images
            assert np.abs(made.astype(int) - wanted).max() <= 1
            assert (made != wanted).mean() < 1e-3


class Cancelled(Exception):  # noqa: N818 - not an error
    pass


def test_a_request_ends_between_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its visitor leaves while a strip is computed: those after it are not."""
    entered, go_on = threading.Event(), threading.Event()
    in_strips(monkeypatch.setattr)

    def visit(_share: float) -> None:
        if entered.is_set():
            raise Cancelled

    def hold() -> None:
        entered.set()
        go_on.wait(60)

    with closing(Service({"m": Codec(tiny(), name="m", precision="fp32")})) as service:
        ran = in_a_strip(hold, monkeypatch.setattr)
        with pytest.raises(Cancelled):
            service.encode(png(pixels(257, 263)), tick=visit)
        go_on.set()
        until(lambda: service.stats().running == 0)
        cut = len(ran)
        assert service.stats().requests == {("encode", "cancelled"): 1}
        assert service.encode(png(pixels(257, 263))).latents.count == 1
        assert cut < (len(ran) - cut) / 4


def test_memory_that_runs_out_in_a_strip_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    in_strips(monkeypatch.setattr)
    with closing(Service({"m": Codec(tiny(), name="m", precision="fp32")})) as service:
        in_a_strip(lambda: torch.empty(2**60, dtype=torch.uint8), monkeypatch.setattr)
        with pytest.raises(TooLarge, match="memory ran out for this image: try one of half as many pixels"):
            service.encode(png(pixels(257, 263)))
        assert service.encode(png(pixels(257, 263))).latents.count == 1
