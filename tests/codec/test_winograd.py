"""Fewer multiplications, the same sums."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latent_ae.codec import Codec, precision, winograd
from latent_ae.codec.memory import peak_bytes
from latent_ae.codec.picture import photo_like
from latent_ae.codec.sides import DecoderSide, EncoderSide, Format, Side
from latent_ae.codec.winograd import WinogradConv2d, convolve, fits, with_winograd
from latent_ae.config import ModelConfig
from latent_ae.models import Autoencoder, build_autoencoder

WINOGRAD = Format("fp32", channels_last=True, winograd=True)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (4, 9), (11, 6), (40, 3)])
@pytest.mark.parametrize(("channels", "out", "batch"), [(3, 5, 1), (6, 2, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_the_convolution(size: tuple[int, int], channels: int, out: int, batch: int, channels_last: bool) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    inputs, weight = random(batch, channels, *size).to(memory_format=order), random(out, channels, 3, 3, seed=1)
    for bias in (None, random(out, seed=2)):
        got = convolve(inputs, weight, bias)
        assert got.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(got, F.conv2d(inputs, weight, bias, padding=1), atol=2e-4, rtol=1e-4)


def test_it_is_nearly_as_exact_as_float32() -> None:
    inputs, weight = random(1, 128, 32, 32), random(128, 128, 3, 3, seed=1)
    expected = F.conv2d(inputs.double(), weight.double(), padding=1)
    errors = [
        float((each - expected).norm() / expected.norm())
        for each in (convolve(inputs, weight, None), F.conv2d(inputs, weight, padding=1))
    ]
    assert errors[0] < 1e-5
    assert errors[1] < 1e-6


@pytest.mark.parametrize(
    ("convolution", "expected"),
    [
        (nn.Conv2d(96, 128, 3, padding=1), True),
        (nn.Conv2d(95, 128, 3, padding=1), False),
        (nn.Conv2d(128, 4, 3, padding=1), False),
        (nn.Conv2d(96, 96, 1), False),
        (nn.Conv2d(96, 96, 3), False),
        (nn.Conv2d(96, 96, 3, padding=1, stride=2), False),
        (nn.Conv2d(96, 96, 3, padding=1, groups=2), False),
        (nn.Conv2d(96, 96, 3, padding=1, dilation=2), False),
        (nn.Conv2d(96, 96, 3, padding=1, padding_mode="reflect"), False),
        (nn.ConvTranspose2d(96, 96, 3, padding=1), False),
    ],
)
def test_it_takes_wide_plain_convolutions_alone(convolution: nn.Module, expected: bool) -> None:
    assert fits(convolution) is expected


def wide() -> Autoencoder:
    config = ModelConfig(preset="kl-f4", block_out_channels=(96,), layers_per_block=1, norm_num_groups=8)
    return build_autoencoder(config, seed=0, resolution=16).eval()


def test_a_side_with_it_has_the_models_own_weights_and_its_values() -> None:
    model, picture = wide(), photo_like(3, 48)
    for side, inputs in ((EncoderSide(model), picture), (DecoderSide(model), random(1, 3, 48, 48))):
        twin = Side(side, WINOGRAD)
        replaced = [module for module in twin.module.modules() if isinstance(module, WinogradConv2d)]
        assert len(replaced) == sum(map(fits, side.modules())) > 5
        assert not any(isinstance(module, WinogradConv2d) for module in side.modules())
        assert {id(weight) for weight in twin.module.parameters()} == {id(weight) for weight in side.parameters()}
        with torch.no_grad():
            torch.testing.assert_close(twin(inputs), Side(side, Format("fp32"))(inputs), atol=1e-4, rtol=1e-4)


def test_small_inputs_are_convolved_as_they_were() -> None:
    convolution, inputs = nn.Conv2d(96, 96, 3, padding=1), random(1, 96, 44, 46)
    module = WinogradConv2d(convolution)
    with torch.no_grad():
        assert torch.equal(module(inputs), convolution(inputs))
        assert not torch.equal(module(random(1, 96, 46, 46)), convolution(random(1, 96, 46, 46)))


def test_auto_tries_it_where_there_is_something_to_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_PICTURE", 16)
    monkeypatch.setattr(precision, "_LARGE_PICTURE", {"cpu": 16})
    forms = {form for choice in both(Codec(wide(), name="m")) for form in choice}
    assert WINOGRAD in forms
    narrow = build_autoencoder(ModelConfig(preset="tiny"), seed=0, resolution=16)
    assert WINOGRAD not in {form for choice in both(Codec(narrow, name="m")) for form in choice}


def both(codec: Codec) -> list[list[Format]]:
    return [[trial.form for trial in choice.tried] for choice in (codec.precision.encoder, codec.precision.decoder)]


def test_its_memory_is_predicted_from_one_band_of_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    module, shape = with_winograd(nn.Sequential(nn.Conv2d(96, 96, 3, padding=1))), (1, 96, 128, 96)
    told = peak_bytes(module, shape, torch.float32, channels_last=True)
    monkeypatch.setattr(winograd, "islice", lambda bands, count: bands)
    assert peak_bytes(module, shape, torch.float32, channels_last=True) == told
