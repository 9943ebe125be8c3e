"""Settings that are asked for, those that are not, and those that have no effect."""

from typing import Any

import pytest
import torch

from latent_ae.errors import UserError
from latent_ae.inference import Codec
from latent_ae.io.latent_file.latents import from_bytes
from latent_ae.service.errors import BadRequest
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service

from .conftest import closing, pixels, png, tiny

IMAGE = pixels(9, 14)


def test_a_file_knows_the_seed_that_it_was_drawn_with(service: Service, kl: Codec) -> None:
    latents = from_bytes(service.encode(png(IMAGE), seed=7).file)
    again = kl.encode([IMAGE], seed=latents.seed)[0]
    assert latents.seed == 7
    assert torch.equal(again.tensor, latents.tensor)
    assert from_bytes(service.encode(png(IMAGE)).file).seed is None


@pytest.mark.parametrize("setting", [{"seed": 0}, {"logvar": True}, {"dtype": "float32"}], ids=str)
def test_what_has_no_effect_on_latents_is_refused(service: Service, setting: dict[str, Any]) -> None:
    name = next(iter(setting))
    with pytest.raises(BadRequest, match=f"{name} has no effect on the codes of vq, .*: leave it out"):
        service.encode(png(IMAGE), model="vq", **setting)
    certain = tiny()
    with torch.no_grad():
        certain.quant_conv.weight[2:] = 0
        certain.quant_conv.bias[2:] = -30
    with closing(Service({"plain": Codec(certain, name="plain", precision="fp32")})) as other:
        if name == "dtype":
            assert other.encode(png(IMAGE), **setting).latents.kind == "mean"
            return
        with pytest.raises(BadRequest, match=f"{name} has no effect on the latents of plain, .*: leave it out"):
            other.encode(png(IMAGE), **setting)


def test_what_is_not_asked_for_is_within_the_limits(kl: Codec) -> None:
    images = [png(pixels(12, 16, seed=seed)) for seed in range(4)]
    for samples, usual in ((64, (16, 9, 36)), (10, (10, 9, 9)), (4, (4, 4, 4))):
        with closing(Service({"kl": kl}, limits=ServiceLimits(samples=samples))) as service:
            answers = service.sample(size=8), service.interpolate(*images[:2]), service.interpolate_grid(images)
            assert tuple(len(answer.images) for answer in answers) == usual
    with pytest.raises(
        UserError, match=r"--samples must be at least 4 \(the corners of an interpolation grid\), got 3"
    ):
        ServiceLimits(samples=3)
