"""The codec with models of other classes: any size, threads, memory, and latents that know their encoder."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from latent_ae.inference import Codec, DoesNotFit
from latent_ae.inference.sides import EncoderSide
from latent_ae.io.latent_file.latents import WrongEncoder, from_bytes, to_bytes
from latent_ae.io.pixel_format import Array
from latent_ae.models import pad_to_factor
from latent_ae.models.adapters import ADAPTERS
from tests.models.adapted_models import adapted, network


def codec_of(name: str, **options: object) -> Codec:
    return Codec(adapted(name), name=name, **{"precision": "fp32", **options})


def image(codec: Codec, height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, codec.channels), dtype=np.uint8)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_size_comes_back_as_the_model_makes_it(name: str) -> None:
    codec = codec_of(name)
    assert codec.precision.encoder.chosen.stock
    images = [image(codec, *size) for size in ((48, 64), (263, 257), (40, 1))]
    found = codec.encode(images)
    for given, latents, decoded in zip(images, found, codec.decode(found), strict=True):
        assert decoded.shape == given.shape
        assert max(latents.padding) < codec.factor
        if given.shape[0] > 64:
            continue
        padded = pad_to_factor(codec.pixel_format.to_tensor(given)[None], codec.factor)
        with torch.no_grad():
            moments = codec.model.encoder(padded)
            assert torch.equal(latents.tensor, moments.chunk(2, dim=1)[0])
            pixels = codec.model.decoder(latents.tensor)[0, :, : given.shape[0], : given.shape[1]]
        assert np.array_equal(decoded, codec.pixel_format.from_tensor(pixels.clamp(-1, 1)))


@pytest.mark.parametrize("name", ["AutoencoderTiny", "AutoencoderKLWan", "AutoencoderKLHunyuanVideo15"])
def test_what_does_not_fit_is_refused_before(name: str) -> None:
    codec = codec_of(name, memory_bytes=5000)
    with pytest.raises(DoesNotFit, match=r"encoding an image of .* would take about .* of memory"):
        codec.encode([image(codec, 64, 64)])


def test_half_precision_is_as_diffusers_computes_it() -> None:
    codec = codec_of("AutoencoderKLWan", precision="bf16")
    given = image(codec, 32, 32)
    half = copy.deepcopy(network("AutoencoderKLWan")).bfloat16()
    pixels = codec.pixel_format.to_tensor(given)[None, :, None]
    with torch.no_grad():
        expected = half.encode(pixels.bfloat16()).latent_dist.mode()[:, :, 0].float()
    assert torch.equal(codec.encode([given])[0].tensor, expected)
    assert codec.model.dtype == torch.float32


def test_threads_encode_at_once() -> None:
    codec = codec_of("AutoencoderKLQwenImage")  # which keeps what it computes in attributes
    side = EncoderSide(codec.model)
    inputs = [codec.pixel_format.to_tensor(image(codec, 16, 16, seed))[None] for seed in range(12)]
    with torch.no_grad():
        expected = [side(each) for each in inputs]

    def encode(place: int) -> bool:
        with torch.no_grad():
            return torch.equal(side(inputs[place % 12]), expected[place % 12])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(encode, range(96)))


def test_another_classs_decoder_refuses_latents() -> None:
    tiny, asymmetric = codec_of("AutoencoderTiny"), codec_of("AsymmetricAutoencoderKL")
    latents = from_bytes(to_bytes(tiny.encode([image(tiny, 16, 16)])[0]))
    assert np.array_equal(tiny.decode([latents])[0], tiny.reconstruct([image(tiny, 16, 16)])[0])
    with pytest.raises(WrongEncoder, match=r"decode them with the model that made them"):
        asymmetric.decode([latents])
