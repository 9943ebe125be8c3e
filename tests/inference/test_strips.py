"""Rows of an activation are those of the whole activation, whichever are asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_ae.inference import strips
from latent_ae.inference.fused import merged_kernel
from latent_ae.inference.group_sums import Sums
from latent_ae.inference.strips import (
    Added,
    Bands,
    Convolved,
    Downsampled,
    Normalised,
    Rows,
    Stored,
    Upsampled,
    completed,
    followed_by,
    keep,
    store,
)

WIDTH, CHANNELS = 6, 8


def ignore(share: float) -> None:
    """A tick of which nothing is made."""


def image(height: int, channels: int = CHANNELS) -> Tensor:
    values = torch.randn(1, channels, height, WIDTH, generator=torch.Generator().manual_seed(height))
    return values.contiguous(memory_format=torch.channels_last)


def conv(kernel: int, **more: int) -> nn.Conv2d:
    torch.manual_seed(kernel)
    return nn.Conv2d(CHANNELS, 4, kernel, **more).requires_grad_(requires_grad=False)


def norm() -> nn.GroupNorm:
    layer = nn.GroupNorm(2, CHANNELS, eps=1e-3).requires_grad_(requires_grad=False)
    layer.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
    layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return layer


def whole_upsampled(values: Tensor) -> Tensor:
    return conv(3, padding=1)(F.interpolate(values, scale_factor=2.0, mode="nearest"))


MADE = {
    "conv 3x3": (lambda source: Convolved(source, conv(3)), conv(3, padding=1)),
    "conv 1x1": (lambda source: Convolved(source, conv(1)), conv(1)),
    "halving": (
        lambda source: Downsampled(source, conv(3, stride=2)),
        lambda values: conv(3, stride=2)(F.pad(values, (0, 1, 0, 1))),
    ),
    "doubling": (
        lambda source: Upsampled(source, merged_kernel(conv(3).weight), conv(3).bias),
        whole_upsampled,
    ),
    "sum": (
        lambda source: Added(Convolved(source, conv(3)), Convolved(source, conv(1)), 2.0),
        lambda values: (conv(3, padding=1)(values) + conv(1)(values)) / 2,
    ),
    "norm": (
        lambda source: Normalised(source, norm(), keep(source, norm(), 0, ignore)[1]),
        lambda values: F.silu(norm()(values)),
    ),
}


@pytest.mark.parametrize("height", [2, 4, 10])
@pytest.mark.parametrize("name", MADE)
def test_any_rows_are_those_of_the_whole(name: str, height: int) -> None:
    make, whole = MADE[name]
    values = image(height)
    made, expected = make(Stored([values])), whole(values)
    assert (made.height, made.width, made.channels) == (expected.shape[2], expected.shape[3], expected.shape[1])
    for first in range(made.height):
        for last in range(first + 1, made.height + 1):
            torch.testing.assert_close(made.rows(first, last), expected[:, :, first:last], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("strip_rows", [1, 3, 100])
def test_what_nobody_reads_again_is_given_back(strip_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two convolutions look two rows up; whatever of the first is kept, rows are there as long as they are read."""
    monkeypatch.setattr(strips, "_LEAST_ROWS", strip_rows)
    monkeypatch.setattr(strips, "_STRIP_BYTES", 1)
    monkeypatch.setattr(strips, "_BAND_BYTES", 1)
    values, square = image(11), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).requires_grad_(requires_grad=False)
    expected = values + square(square(values))
    for count in (0, 5, 11):
        given = Stored([band.clone() for band in values.split(strip_rows, dim=2)])
        first = Convolved(given, square)
        kept, _ = keep(first, nn.GroupNorm(2, CHANNELS), count * CHANNELS * WIDTH, ignore)
        hidden = completed(kept, first)
        assert (kept.height if kept else 0) == count
        read_last = [given] if kept is None else [given, kept]
        stored, sums = store(Added(Convolved(hidden, square), given), norm(), ignore, read_last)
        torch.testing.assert_close(stored.whole(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(sums.by_channel()[0][0], expected[0, : CHANNELS // 2].mean(), rtol=1e-5, atol=1e-6)
        if strip_rows < 11:
            for each in read_last:
                with pytest.raises((RuntimeError, ValueError), match="expected a non-empty list"):
                    each.rows(0, 1)


@pytest.mark.parametrize("band_rows", [1, 2, 5, 7, 20])
@pytest.mark.parametrize("height", [0, 1, 6, 11])
def test_rows_are_written_into_bands(band_rows: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_BAND_BYTES", band_rows * CHANNELS * WIDTH * 4)
    values, bands = image(11), Bands(height)
    for rows in values.split(3, dim=2):
        bands.add(rows)
    sizes = [band.shape[2] for band in bands.tensors]
    assert sizes == [min(band_rows, height - top) for top in range(0, height, band_rows)]
    if height:
        assert torch.equal(torch.cat(bands.tensors, 2), values[:, :, :height])


def test_a_stored_activation_has_all_its_rows_across_bands() -> None:
    values = image(11)
    stored = Stored(values.split(4, dim=2))
    assert (stored.height, stored.values) == (11, values.numel())
    for first in range(11):
        for last in range(first + 1, 12):
            assert torch.equal(stored.rows(first, last), values[:, :, first:last])


@pytest.mark.parametrize("rows", [1, 2, 3, 8])
def test_a_1x1_convolution_after_an_upsampling_is_one_with_it(rows: int) -> None:
    for bias in (True, False):
        upsampled = Upsampled(Stored([image(6)]), merged_kernel(conv(3).weight), conv(3).bias if bias else None)
        after = nn.Conv2d(4, 3, 1, bias=bias).requires_grad_(requires_grad=False)
        composed = followed_by(upsampled, after)
        assert isinstance(composed, Upsampled)
        for first in range(12 - rows):
            expected = after(upsampled.rows(first, first + rows))
            torch.testing.assert_close(composed.rows(first, first + rows), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_sums_are_those_of_the_whole_image(layout: torch.memory_format) -> None:
    """Of float32, in whichever order: torch's own normalisation of channels-last loses three digits."""
    values = (image(400) * 3 + 5).contiguous(memory_format=layout)
    sums = Sums(nn.GroupNorm(2, CHANNELS))
    for first in range(0, 400, 37):
        sums.add(values[:, :, first : first + 37])
    mean, variance = sums.by_channel()
    groups = values.double().reshape(2, -1)
    width = CHANNELS // 2
    torch.testing.assert_close(mean.double(), groups.mean(1).repeat_interleave(width), rtol=1e-7, atol=1e-7)
    expected = groups.var(1, unbiased=False).repeat_interleave(width)
    torch.testing.assert_close(variance.double(), expected, rtol=1e-6, atol=0)


def test_strips_are_as_high_as_their_widest_activation_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[int] = []

    class Counted(Stored):
        def rows(self, first: int, last: int) -> Tensor:
            heights.append(last - first)
            return super().rows(first, last)

    row = WIDTH * CHANNELS * 4
    monkeypatch.setattr(strips, "_STRIP_BYTES", 12 * row)
    source: Rows = Convolved(Counted([image(60)]), conv(1))
    store(source, None, ignore)
    assert heights == [12] * 5
