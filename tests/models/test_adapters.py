"""Every other autoencoder class that is run here: as diffusers runs it, by name, with an identity of its own."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.models.adapters import ADAPTERS, Adapter
from latent_ae.models.autoencoder import class_name, factor_of, latent_shape
from latent_ae.models.encode_decode import decode_latents, encode_pixels, inference
from latent_ae.models.errors import ModelError
from latent_ae.models.loading import load_any_autoencoder, load_autoencoder
from latent_ae.models.parts import encoder_identity
from tests.models.adapted_models import ARGUMENTS, adapted, network

HELD = {
    "AutoencoderTiny": ("latents", (4, 8, 12)),
    "AutoencoderDC": ("latent", (8, 8, 12)),
    "AsymmetricAutoencoderKL": ("latent_dist", (4, 16, 24)),
    "AutoencoderKLFlux2": ("latent_dist", (4, 8, 12)),
    "AutoencoderKLHunyuanImage": ("latent_dist", (8, 2, 3)),
    "AutoencoderKLKVAE": ("latent_dist", (4, 8, 12)),
    "AutoencoderKLTemporalDecoder": ("latent_dist", (4, 8, 12)),
    "AutoencoderKLQwenImage": ("latent_dist", (16, 8, 12)),
    "AutoencoderKLQwenImage21": ("latent_dist", (64, 4, 6)),
    "AutoencoderKLWan": ("latent_dist", (16, 4, 6)),
    "AutoencoderKLCosmos": ("latent_dist", (16, 8, 12)),
    "AutoencoderKLHunyuanImageRefiner": ("latent_dist", (4, 4, 6)),
    "AutoencoderKLHunyuanVideo": ("latent_dist", (4, 8, 12)),
    "AutoencoderKLHunyuanVideo15": ("latent_dist", (4, 4, 6)),
    "AutoencoderKLLTXVideo": ("latent_dist", (8, 2, 3)),
}
"""the name of what `encode` gives, and the latents of an image of 64x96 pixels"""
VIDEOS = {
    "QwenImage",
    "QwenImage21",
    "Wan",
    "Cosmos",
    "HunyuanImageRefiner",
    "HunyuanVideo",
    "HunyuanVideo15",
    "LTXVideo",
}
WITHOUT_POSTERIOR = {"AutoencoderTiny", "AutoencoderDC", "AutoencoderKLCosmos"}


def pixels_for(name: str) -> Tensor:
    channels = adapted(name).config["in_channels"]
    count = 2 if ADAPTERS[name].batches else 1
    return torch.rand(count, channels, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_every_row_is_tried() -> None:
    assert HELD.keys() == ARGUMENTS.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("name", ADAPTERS)
def test_latents_and_pixels_are_diffusers_own(name: str) -> None:
    stock, pixels, (field, shape) = network(name), pixels_for(name), HELD[name]
    frame = (slice(None), slice(None), None if name.removeprefix("AutoencoderKL") in VIDEOS else ...)
    with torch.no_grad():
        given = getattr(stock.encode(pixels[frame]), field)
        z = given if isinstance(given, Tensor) else given.mode()
        decoded = stock.decode(z, **({"num_frames": 1} if "Temporal" in name else {})).sample
    model = adapted(name)
    with inference(model):
        encoded = encode_pixels(model, pixels)
        found = decode_latents(model, encoded.latents)
    assert encoded.latents.shape == (len(pixels), *shape)
    assert latent_shape(model, (64, 96)) == shape
    assert torch.equal(encoded.latents, z.reshape(encoded.latents.shape))
    assert torch.equal(found, decoded.reshape(pixels.shape))
    if name in WITHOUT_POSTERIOR:
        assert encoded.logvar is None
    else:
        assert encoded.logvar is not None
        assert torch.equal(encoded.logvar.clamp(-30, 20), given.logvar.reshape(encoded.latents.shape))


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_folder_is_loaded_by_its_class(name: str, tmp_path: Path) -> None:
    network(name).save_pretrained(tmp_path / "vae")
    model = load_any_autoencoder(str(tmp_path))
    assert isinstance(model, Adapter)
    assert class_name(model) == name
    assert encoder_identity(model) == encoder_identity(adapted(name))
    assert factor_of(model) == 64 // HELD[name][1][1]
    assert not model.training
    with pytest.raises(ModelError) as caught:
        load_autoencoder(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} (vae/) holds a model of class {name}; it encodes, decodes and is measured here, while training "
        "and exports take AutoencoderKL and VQModel"
    )


@pytest.mark.parametrize("name", ["AutoencoderRAE", "AutoencoderVidTok", "ConsistencyDecoderVAE", "Nothing"])
def test_another_class_is_refused_with_what_works(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ModelError) as caught:
        load_any_autoencoder(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} holds a model of class {name}; AutoencoderKL and VQModel can be loaded, and to encode, decode and "
        f"measure also {', '.join(ADAPTERS)}"
    )


def test_images_go_one_by_one_through_a_class_without_batches() -> None:
    model = adapted("AutoencoderKLHunyuanVideo15")
    pixels = torch.cat([pixels_for("AutoencoderKLHunyuanVideo15"), torch.zeros(1, 3, 64, 96)])
    with inference(model):
        both, first = encode_pixels(model, pixels), encode_pixels(model, pixels[:1])
        decoded = decode_latents(model, both.latents)
    assert torch.equal(both.latents[:1], first.latents)
    assert decoded.shape == pixels.shape


def test_a_decoder_that_draws_noise_is_refused(tmp_path: Path) -> None:
    arguments = ARGUMENTS["AutoencoderKLLTXVideo"] | {"timestep_conditioning": True}
    with torch.device("meta"):
        diffusers.AutoencoderKLLTXVideo(**arguments).save_config(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_any_autoencoder(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} holds an AutoencoderKLLTXVideo that cannot be run here: its decoder denoises, from noise that it "
        "draws (timestep_conditioning)"
    )


def test_the_trained_classes_are_loaded_as_they_are(tmp_path: Path) -> None:
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).save_pretrained(tmp_path)
    assert type(load_any_autoencoder(str(tmp_path))) is AutoencoderKL


def test_weights_that_are_missing_are_not_drawn(tmp_path: Path) -> None:
    name = "AutoencoderTiny"
    network(name).save_pretrained(tmp_path)
    other = diffusers.AutoencoderTiny(**ARGUMENTS[name] | {"num_encoder_blocks": (2, 1, 1, 1)})
    other.save_config(tmp_path)
    with pytest.raises(ModelError, match=r"lacks [0-9]+ of its weights, the first of them encoder\."):
        load_any_autoencoder(str(tmp_path))
    shutil.rmtree(tmp_path)


def test_the_identity_is_of_the_encoder_alone() -> None:
    model = adapted("AutoencoderKLFlux2")
    changed = Adapter(deepcopy(model.network), model.row)
    before = encoder_identity(changed)
    assert before == encoder_identity(model) != encoder_identity(adapted("AsymmetricAutoencoderKL"))
    with torch.no_grad():
        changed.network.decoder.conv_out.bias.add_(1)
        assert encoder_identity(changed) == before
        changed.network.quant_conv.bias.add_(1)
        assert encoder_identity(changed) != before
    renamed = Adapter(diffusers.AutoencoderTiny(**ARGUMENTS["AutoencoderTiny"] | {"act_fn": "silu"}), model.row)
    renamed.network.load_state_dict(network("AutoencoderTiny").state_dict())
    row = ADAPTERS["AutoencoderTiny"]
    assert encoder_identity(Adapter(renamed.network, row)) != encoder_identity(adapted("AutoencoderTiny"))
