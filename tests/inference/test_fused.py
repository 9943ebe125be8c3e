"""A fused side is the stock one: to the last bit where only memory is saved, to rounding where sums are merged."""

import math

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from latent_ae.inference import fused as room
from latent_ae.inference import winograd
from latent_ae.inference.fused import (
    FusedAttention,
    FusedGroupNorm,
    FusedResnetBlock,
    MergedUpsampling,
    attend,
    fuse,
    group_norm_by_sums,
    merged_kernel,
)
from latent_ae.inference.sides import DecoderSide, EncoderSide, Format, Side
from tests.models.stock_models import ARCHITECTURES, stock


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def block(in_channels: int, out_channels: int, **others: float) -> ResnetBlock2D:
    torch.manual_seed(3)
    return ResnetBlock2D(
        in_channels=in_channels, out_channels=out_channels, temb_channels=None, groups=2, **others
    ).eval()


@pytest.mark.parametrize(("out", "scale"), [(4, 1.0), (8, 1.0), (4, 2.0)])
@torch.no_grad()
def test_a_block_has_the_same_bits_and_leaves_its_input_alone(out: int, scale: float) -> None:
    own, inputs = block(4, out, output_scale_factor=scale), drawn(2, 4, 6, 5)
    twin, before = fuse(nn.Sequential(own)), inputs.clone()
    assert isinstance(twin[0], FusedResnetBlock)
    assert torch.equal(twin(inputs), own(inputs, None))
    assert torch.equal(inputs, before)


@torch.no_grad()
def test_merged_upsampling_by_hand() -> None:
    """One value v becomes 2x2, and each of them sees all four through a kernel of ones."""
    kernel = merged_kernel(torch.ones(1, 1, 3, 3))
    assert kernel[0, 0].tolist() == [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
    outputs = F.conv_transpose2d(torch.full((1, 1, 1, 1), 3.0), kernel, stride=2, padding=1)
    assert outputs.tolist() == [[[[12.0, 12.0], [12.0, 12.0]]]]


@pytest.mark.parametrize(("channels", "out", "height", "width"), [(1, 1, 1, 1), (3, 5, 4, 7), (8, 8, 16, 16)])
@torch.no_grad()
def test_merged_upsampling_is_the_stock_layer(channels: int, out: int, height: int, width: int) -> None:
    layer, inputs = Upsample2D(channels, use_conv=True, out_channels=out), drawn(2, channels, height, width)
    twin = fuse(nn.Sequential(layer))
    assert isinstance(twin[0], MergedUpsampling)
    torch.testing.assert_close(twin(inputs), layer(inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (5.0, 0.5), (-30.0, 20.0)])
def test_the_normalisation_of_gpus_is_torchs(layout: torch.memory_format, shift: float, scale: float) -> None:
    inputs = (drawn(2, 6, 9, 5) * scale + shift).contiguous(memory_format=layout)
    weight, bias = drawn(6), drawn(6) * 2
    got = group_norm_by_sums(inputs, 3, weight, bias, 1e-6)
    torch.testing.assert_close(got, F.group_norm(inputs, 3, weight, bias, 1e-6), atol=1e-3, rtol=1e-4)
    assert got.is_contiguous(memory_format=layout)


def test_a_constant_group_is_normalised_to_its_bias() -> None:
    got = group_norm_by_sums(torch.full((1, 2, 3, 3), 7.0), 1, torch.ones(2), torch.tensor([1.0, -2.0]), 1e-6)
    torch.testing.assert_close(got[0, :, 0, 0], torch.tensor([1.0, -2.0]), atol=0.01, rtol=0)
    assert got.isfinite().all()


@pytest.mark.parametrize("scores", [1, 21, 35, 2**22])
def test_attention_by_some_rows_is_attention(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 7 places: a row, three rows and one, five and two, all at once."""
    monkeypatch.setattr(room, "_SCORES", scores)
    query, key, value = drawn(3, 2, 7, 4)
    expected = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attend(query, key, value), expected, atol=1e-6, rtol=1e-5)


def test_attention_by_hand() -> None:
    """Scores of 0 and log 3 over a width of 4, halved by its root: weights of 1 and 3 in 4."""
    query, key = torch.tensor([[[2.0, 0, 0, 0]]]), torch.tensor([[[0.0, 0, 0, 0], [math.log(3.0), 0, 0, 0]]])
    value = torch.tensor([[[4.0, 0, 0, 0], [8.0, 0, 0, 0]]])
    scores = query.expand(1, 2, 4)  # as many rows as places
    torch.testing.assert_close(attend(scores, key, value)[0, :, 0], torch.tensor([7.0, 7.0]))


@pytest.mark.parametrize("name", ["stable diffusion", "latent-diffusion f16", "vqgan"])
@torch.no_grad()
def test_an_encoder_with_plain_products_for_attention_is_the_stock_one(name: str) -> None:
    encoder = EncoderSide(stock(name))
    twin, pixels = fuse(encoder, attention=True), drawn(2, 3, 48, 32).clamp(-1, 1)
    assert any(isinstance(module, FusedAttention) for module in twin.modules())
    torch.testing.assert_close(twin(pixels), encoder(pixels), atol=1e-5, rtol=1e-5)
    last = pixels.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(twin(last), encoder(pixels), atol=1e-5, rtol=1e-5)


def test_attention_of_half_encoders_alone_is_rounded() -> None:
    model = stock("stable diffusion")
    for side, form, expected in (
        (EncoderSide(model), Format("bf16", True), True),
        (EncoderSide(model), Format("fp32", True), False),
        (DecoderSide(model), Format("bf16", True), False),
    ):
        assert any(isinstance(module, FusedAttention) for module in Side(side, form).module.modules()) is expected


@pytest.mark.parametrize("faster", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_both_sides_of_every_architecture_are_the_stock_models(
    name: str, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 4)
    model = stock(name)
    encoder, decoder = EncoderSide(model), DecoderSide(model)
    pixels = drawn(1, model.config["in_channels"], 32, 32).clamp(-1, 1)
    moments = encoder(pixels)
    torch.testing.assert_close(fuse(encoder, winograd=faster)(pixels), moments, atol=1e-5, rtol=1e-5)
    latents = moments[:, : encoder.channels]
    torch.testing.assert_close(fuse(decoder, winograd=faster)(latents), decoder(latents), atol=1e-4, rtol=1e-4)


def test_weights_are_shared_but_for_the_merged_and_the_model_is_left_as_it_was() -> None:
    decoder = DecoderSide(stock("stable diffusion"))
    names = [name for name, _ in decoder.named_modules()]
    twin, own = fuse(decoder), {id(weight) for weight in decoder.parameters()}
    merged = [module.weight for module in twin.modules() if isinstance(module, MergedUpsampling)]
    assert len(merged) == 3
    others = [weight for weight in twin.parameters() if not any(weight is each for each in merged)]
    assert all(id(weight) in own for weight in others)
    assert [name for name, _ in decoder.named_modules()] == names
    assert not any(isinstance(module, nn.SiLU) and module.inplace for module in decoder.modules())
    assert sum(isinstance(module, FusedResnetBlock) for module in twin.modules()) == 14


def test_what_is_not_known_is_left_as_it_is() -> None:
    """A block with a time embedding or in training, and an upsampling without convolution or with a kernel of five."""
    timed = ResnetBlock2D(in_channels=4, temb_channels=8, groups=2).eval()
    layers = nn.Sequential(
        timed, block(4, 4).train(), Upsample2D(4), Upsample2D(4, use_conv=True, kernel_size=5, padding=2)
    )
    assert [type(layer) for layer in fuse(layers)] == [ResnetBlock2D, ResnetBlock2D, Upsample2D, Upsample2D]


@torch.no_grad()
def test_every_format_but_the_stock_ones_is_fused() -> None:
    decoder = DecoderSide(stock("stable diffusion"))
    for form in (Format("exact"), Format("fp32")):
        assert Side(decoder, form).module is decoder
    for form in (Format("fp32", True), Format("bf16", True), Format("fp16"), Format("tf32")):
        modules = [type(module) for module in Side(decoder, form).module.modules()]
        assert {FusedResnetBlock, MergedUpsampling, FusedGroupNorm} <= {*modules}
