"""Pixels to latents and back is what the stock model does, for images of any size."""

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.models import build_autoencoder
from latent_ae.models.bottlenecks.identity import IdentityBottleneck
from latent_ae.models.bottlenecks.vq import VQConfig
from latent_ae.models.encode_decode import decode_latents, encode_pixels, inference


def gaussian() -> AutoencoderKL:
    model = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    assert isinstance(model, AutoencoderKL)
    return model.eval()


def coded() -> VQModel:
    bottleneck = VQConfig(codebook_size=9)
    model = build_autoencoder(ModelConfig(preset="tiny"), bottleneck, seed=0, resolution=16)
    assert isinstance(model, VQModel)
    with torch.no_grad():  # codes where vectors are, so that all are used
        vectors = model.encode(images()).latents.movedim(1, -1).flatten(0, 2)
        model.quantize.embedding.weight.copy_(vectors[:: len(vectors) // 9][:9])
    return model.eval()


def images(height: int = 16, width: int = 12) -> Tensor:
    return torch.rand(3, 1, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_a_gaussian_models_latents_are_the_posteriors_mode() -> None:
    model, pixels = gaussian(), images()
    encoded = encode_pixels(model, pixels)
    posterior = model.encode(pixels).latent_dist
    assert torch.equal(encoded.outputs, posterior.parameters)
    assert torch.equal(encoded.latents, posterior.mode())
    assert encoded.logvar is not None
    assert torch.equal(encoded.logvar, posterior.logvar)
    assert encoded.codes is None
    assert torch.equal(decode_latents(model, encoded.latents), model.decode(posterior.mode()).sample)


@torch.no_grad()
def test_the_logvar_is_not_clamped_so_that_an_infinite_one_shows() -> None:
    model = gaussian()
    assert model.quant_conv is not None
    model.quant_conv.bias[2:] = torch.tensor([50.0, float("inf")])
    logvar = encode_pixels(model, images()).logvar
    assert logvar is not None
    assert logvar[:, 0].min() > 40
    assert torch.isinf(logvar[:, 1]).all()


@torch.no_grad()
def test_a_plain_autoencoder_has_no_posterior() -> None:
    model = gaussian()
    IdentityBottleneck().fold(model)
    encoded = encode_pixels(model, images())
    assert encoded.logvar is None
    assert torch.equal(encoded.latents, model.encode(images()).latent_dist.mode())


@torch.no_grad()
def test_a_vq_models_codes_are_the_nearest_and_its_latents_their_vectors() -> None:
    model, pixels = coded(), images()
    encoded = encode_pixels(model, pixels)
    assert encoded.codes is not None
    assert encoded.logvar is None
    vectors = model.encode(pixels).latents
    assert torch.equal(encoded.outputs, vectors)
    assert (encoded.codes.shape, encoded.latents.shape) == ((3, 8, 6), vectors.shape)
    codebook = model.quantize.embedding.weight
    distances = (vectors[:, None] - codebook[None, :, :, None, None]).square().sum(2)  # [B, K, h, w]
    assert torch.equal(encoded.codes, distances.argmin(1))
    assert len(encoded.codes.unique()) == 9
    torch.testing.assert_close(encoded.latents, codebook[encoded.codes].movedim(-1, 1))


@torch.no_grad()
def test_a_vq_model_decodes_vectors_and_latents_alike() -> None:
    model, pixels = coded(), images()
    encoded = encode_pixels(model, pixels)
    whole = model(pixels).sample  # encodes, quantises and decodes by itself
    torch.testing.assert_close(decode_latents(model, encoded.latents), whole, atol=1e-5, rtol=0)
    assert torch.equal(decode_latents(model, model.encode(pixels).latents), whole)


@pytest.mark.parametrize("model", [gaussian(), coded()], ids=["kl", "vq"])
@torch.no_grad()
def test_an_odd_side_is_padded_by_repeating_its_end(model: AutoencoderKL | VQModel) -> None:
    pixels = images(15, 11)
    repeated = torch.cat([pixels, pixels[..., -1:]], dim=-1)
    repeated = torch.cat([repeated, repeated[..., -1:, :]], dim=-2)
    padded, whole = encode_pixels(model, pixels), encode_pixels(model, repeated)
    assert torch.equal(padded.latents, whole.latents)
    assert padded.latents.shape[-2:] == (8, 6)
    assert decode_latents(model, padded.latents).shape == (3, 1, 16, 12)  # not cropped


def test_inference_needs_no_graph_and_gives_every_module_its_own_mode_back() -> None:
    model = gaussian().train()
    model.encoder.eval()  # a frozen part
    before = {name: module.training for name, module in model.named_modules()}
    with inference(model):
        assert not any(module.training for module in model.modules())
        assert not encode_pixels(model, images()).latents.requires_grad
    assert {name: module.training for name, module in model.named_modules()} == before
    with pytest.raises(RuntimeError, match="in between"), inference(model):
        raise RuntimeError("in between")
    assert {name: module.training for name, module in model.named_modules()} == before
