"""Winograd's algorithm gives what the direct convolution gives."""

import copy

import pytest
import torch
from torch import Tensor, nn

from latent_ae.inference import winograd
from latent_ae.inference.winograd import WinogradConv, pays

CHANNELS = (12, 20)


def conv(**changes: object) -> nn.Conv2d:
    torch.manual_seed(0)
    settings = {"kernel_size": 3, "padding": 1}
    return nn.Conv2d(*CHANNELS, **{**settings, **changes}).requires_grad_(requires_grad=False)


def images(height: int, width: int, count: int = 2) -> Tensor:
    values = torch.randn(count, CHANNELS[0], height, width, generator=torch.Generator().manual_seed(height))
    return values.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 4), (9, 6), (7, 5), (1, 8), (8, 1)], ids=str)
@pytest.mark.parametrize("band_bytes", [1, 2**20])
def test_it_is_the_direct_convolution(size: tuple[int, int], band_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "_BAND_BYTES", band_bytes)
    for direct in (conv(), conv(bias=False)):
        values = images(*size)
        expected = copy.deepcopy(direct).double()(values.double())
        made = WinogradConv(direct).double()(values.double())
        torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-6)  # of planes that were made in float32
        torch.testing.assert_close(WinogradConv(direct)(values), expected.float(), rtol=1e-5, atol=2e-6)


def test_rows_between_others_are_those_of_the_whole() -> None:
    values, layer = images(11, 6, count=1), WinogradConv(conv())
    whole = layer(values)
    for first in range(1, 10):
        for last in range(first + 1, 11):
            part = layer.between(values[:, :, first - 1 : last + 1])
            torch.testing.assert_close(part, whole[:, :, first:last], rtol=1e-5, atol=2e-6)


def test_float32_is_as_accurate_as_the_direct_sums() -> None:
    """Of 512 channels, as it is used for."""
    torch.manual_seed(0)
    direct = nn.Conv2d(512, 256, 3, padding=1).requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    values = torch.randn(1, 512, 8, 8).relu().contiguous(memory_format=torch.channels_last)
    expected = copy.deepcopy(direct).double()(values.double())
    errors = [float((made(values) - expected).norm() / expected.norm()) for made in (direct, WinogradConv(direct))]
    assert errors[1] < max(1.5 * errors[0], 1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_size": 1, "padding": 0},
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"groups": 4},
        {"padding_mode": "reflect"},
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    assert not pays(conv())  # too few channels
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 12)
    assert pays(conv())
    assert not pays(conv(**changes))
    assert not pays(nn.Linear(12, 20))
