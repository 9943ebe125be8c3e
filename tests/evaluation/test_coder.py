"""Large images go through a model in strips, and give what they give at once."""

import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae.evaluation.coder import Coder
from latent_ae.inference import strips
from latent_ae.models import Autoencoder
from latent_ae.models.encode_decode import inference

BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
SIZES = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 2, "layers_per_block": 1}


def kl() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**BLOCKS, **SIZES)


def vq() -> VQModel:
    torch.manual_seed(0)
    model = VQModel(**BLOCKS, **SIZES, num_vq_embeddings=16)
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


@pytest.fixture(autouse=True)
def low_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)


@pytest.mark.parametrize("model", [kl(), vq()], ids=["kl", "vq"])
def test_strips_give_what_the_image_gives_at_once(model: Autoencoder) -> None:
    model.train()
    pixels = torch.rand(2, 3, 41, 36) * 2 - 1
    at_once, by_strips = Coder(model, 42 * 36), Coder(model, 42 * 36 - 1)
    with inference(model):
        assert not at_once.in_strips(41, 36)
        assert by_strips.in_strips(41, 36)
        expected, found = at_once.encode(pixels), by_strips.encode(pixels)
        for name, value in expected._asdict().items():
            got = getattr(found, name)
            assert (got is None) == (value is None)
            if value is not None:
                assert torch.allclose(got.to(value.dtype), value, atol=1e-5)
        decoded = by_strips.decode(expected.latents)
        assert torch.allclose(decoded, at_once.decode(expected.latents), atol=1e-5)
        assert decoded.shape == (2, 3, 42, 36)
    assert model.training


def test_strips_take_less_memory_that_grows_with_the_image_alone() -> None:
    model = kl()
    with inference(model):
        at_once, by_strips = Coder(model, 1 << 30), Coder(model, 1)
        whole = at_once.predicted_bytes(1, 2048, 2048)
        small, large = (by_strips.predicted_bytes(1, side, 2048) for side in (2048, 4096))
    assert small < 0.7 * whole
    assert small < large < 2 * small


def test_a_model_of_other_layers_goes_through_at_once() -> None:
    model = kl()
    model.decoder.conv_act = torch.nn.ReLU()
    pixels = torch.rand(1, 3, 16, 16)
    with inference(model):
        coder = Coder(model, 1)
        assert not coder.in_strips(16, 16)
        assert coder.decode(coder.encode(pixels).latents).equal(
            Coder(model).decode(Coder(model).encode(pixels).latents)
        )
