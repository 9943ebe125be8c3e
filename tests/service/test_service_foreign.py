"""Latents of other programs and encoders: decoded by the model that a visitor names, and by no other."""

import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from latent_ae.inference import Codec
from latent_ae.io.image import from_tensor
from latent_ae.io.latent_file.latents import Latents, to_bytes
from latent_ae.service.errors import BadLatents, BadRequest, TooLarge, UnknownModel, WrongModel
from latent_ae.service.limits import ServiceLimits
from latent_ae.service.service import Service

from .conftest import closing, pixels

RAW = torch.randn(2, 2, 3, 5, generator=torch.Generator().manual_seed(0))
COMFY = safetensors.torch.save({"latent_tensor": RAW, "latent_format_version_0": torch.empty(0)})


def of_another_encoder(codec: Codec) -> Latents:
    return dataclasses.replace(codec.encode([pixels()])[0], encoder="f" * 64)


def test_a_file_of_comfyui_is_decoded_by_the_model_that_is_named(service: Service, kl: Codec) -> None:
    done = service.decode(COMFY, model="kl", foreign=True)
    expected = from_tensor(kl.decode_tensor(RAW))
    assert np.array_equal(np.stack(done.images), expected)
    assert done.note == "taken as raw latents of kl: the file does not say which encoder made them"


@pytest.mark.parametrize("model", ["kl", "vq"])
def test_a_file_of_another_encoder_is_decoded_at_its_size(
    service: Service, request: pytest.FixtureRequest, model: str
) -> None:
    codec = request.getfixturevalue(model)
    latents = of_another_encoder(codec)
    done = service.decode(to_bytes(latents), model=model, foreign=True)
    assert np.array_equal(done.images[0], codec.reconstruct([pixels()])[0])
    assert f"the encoder {'f' * 16} ({model}) made them" in done.note
    own = service.decode(to_bytes(dataclasses.replace(latents, encoder=codec.identity)), model=model, foreign=True)
    assert (np.array_equal(own.images[0], done.images[0]), own.note) == (True, "")


def test_without_the_visitors_word_both_are_refused_and_told_of_it(service: Service, kl: Codec) -> None:
    for model in ("kl", None):
        with pytest.raises(BadLatents, match=r"do not say which encoder made them.*foreign=true"):
            service.decode(COMFY, model=model)
        with pytest.raises(WrongModel, match=r"of the encoder f{16}.*foreign=true"):
            service.decode(to_bytes(of_another_encoder(kl)), model=model)


def test_what_is_foreign_needs_a_model_and_its_form(service: Service, kl: Codec) -> None:
    for model, error, words in (
        (None, BadRequest, "name one"),
        ("nobody", UnknownModel, "nobody"),
        ("vq", BadLatents, "holds latents of 2 channels at a factor of 4, the model vq takes codes"),
    ):
        with pytest.raises(error, match=words):
            service.decode(COMFY, model=model, foreign=True)
    with pytest.raises(BadLatents, match="not a latent file"):
        service.decode(b"no latents", model="kl", foreign=True)
    few = Service({"kl": kl}, limits=ServiceLimits(pixels=400))
    with closing(few), pytest.raises(TooLarge, match="2 images of 20x12"):
        few.decode(COMFY, model="kl", foreign=True)
