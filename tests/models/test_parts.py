"""Every tensor is on one side; each side has its identity; what is named learns, and nothing else moves."""

import pytest
import torch
from diffusers import AutoencoderKL

from latent_ae.config import ModelConfig
from latent_ae.models import Autoencoder, build_autoencoder
from latent_ae.models.bottlenecks import BOTTLENECKS
from latent_ae.models.errors import ModelError
from latent_ae.models.parts import (
    DECODER_SIDE,
    ENCODER_SIDE,
    decoder_identity,
    encoder_identity,
    encoder_learns,
    freeze_all_but,
    in_parts,
)


def tiny(kind: str = "kl") -> Autoencoder:
    codes = {} if kind == "kl" else {"codebook_size": 6}
    return build_autoencoder(ModelConfig(preset="tiny"), BOTTLENECKS[kind].model_validate(codes), seed=0, resolution=16)


def learning(model: Autoencoder) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def beginning_with(model: Autoencoder, *beginnings: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(beginnings)}


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_every_tensor_is_on_one_side_and_changes_the_identity_of_that_side_alone(kind: str) -> None:
    model = tiny(kind)
    identities = (encoder_identity(model), decoder_identity(model))
    for name, tensor in model.state_dict().items():
        sides = (in_parts(name, ENCODER_SIDE), in_parts(name, DECODER_SIDE))
        assert sum(sides) == 1, name
        kept = tensor.clone()
        tensor.add_(1)
        changed = (encoder_identity(model) != identities[0], decoder_identity(model) != identities[1])
        assert changed == sides, name
        tensor.copy_(kept)


def test_a_name_is_in_a_part_by_whole_words() -> None:
    assert in_parts("decoder.conv_in.weight", DECODER_SIDE)
    assert in_parts("decoder", DECODER_SIDE)
    assert not in_parts("decoders.conv_in.weight", DECODER_SIDE)
    assert not in_parts("conv.encoder.weight", ENCODER_SIDE)


def test_the_encoder_learns_where_anything_of_its_side_does() -> None:
    assert encoder_learns(None)
    for part in ("encoder", "encoder.conv_in", "quant_conv", "quantize.embedding"):
        assert encoder_learns(["decoder", part]), part
    assert not encoder_learns(["decoder", "post_quant_conv", "decoder.conv_out"])


@pytest.mark.parametrize(
    ("kind", "parts", "beginnings", "frozen"),
    [
        ("kl", ["decoder"], ("decoder.", "post_quant_conv."), {"encoder", "quant_conv"}),
        ("kl", ["encoder"], ("encoder.", "quant_conv."), {"decoder", "post_quant_conv"}),
        ("vq", ["decoder"], ("decoder.", "post_quant_conv."), {"encoder", "quant_conv", "quantize"}),
        ("vq", ["encoder"], ("encoder.", "quant_conv.", "quantize."), {"decoder", "post_quant_conv"}),
        ("vq", ["quantize"], ("quantize.",), {"encoder", "quant_conv", "decoder", "post_quant_conv"}),
        ("kl", ["encoder", "decoder"], ("",), set()),
    ],
)
def test_each_side_has_its_convolution_and_the_encoder_the_codebook(
    kind: str, parts: list[str], beginnings: tuple[str, ...], frozen: set[str]
) -> None:
    model = tiny(kind)
    assert freeze_all_but(model, parts) == frozen
    assert learning(model) == beginning_with(model, *beginnings)


def test_named_parts_are_whole_words_and_leave_the_rest_of_their_module_frozen() -> None:
    model = tiny()
    frozen = freeze_all_but(model, ["decoder.conv_out", "decoder.up_blocks.1.resnets.0.conv1.bias"])
    assert learning(model) == {
        "decoder.conv_out.weight",
        "decoder.conv_out.bias",
        "decoder.up_blocks.1.resnets.0.conv1.bias",
    }
    # Something learns in the decoder: it is no frozen module.
    assert frozen == {"encoder", "quant_conv", "post_quant_conv"}


@pytest.mark.parametrize("part", ["decoder.conv", "dec", "vae", "quantize", "decoder.", ""])
def test_an_unknown_part_is_refused_with_those_there_are(part: str) -> None:
    with pytest.raises(ModelError) as caught:
        freeze_all_but(tiny(), ["encoder", part])
    message = f"model.trained {part}: the model has no such part; its parts are "
    assert str(caught.value) == message + "encoder, decoder, quant_conv, post_quant_conv"


def test_what_was_frozen_already_stays_frozen() -> None:
    model = tiny("ema_vq")
    model.quantize.embedding.requires_grad_(False)  # as a codebook of moving averages is
    freeze_all_but(model, ["encoder"])
    assert learning(model) == beginning_with(model, "encoder.", "quant_conv.")


def test_an_update_moves_the_named_parts_alone() -> None:
    model = tiny()
    assert isinstance(model, AutoencoderKL)
    freeze_all_but(model, ["decoder"])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    identity = encoder_identity(model)
    # Weight decay and momentum would move a frozen weight that was given a gradient of zeros.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)).sample.square().mean().backward()
        optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == beginning_with(model, "decoder.", "post_quant_conv.")
    assert encoder_identity(model) == identity
