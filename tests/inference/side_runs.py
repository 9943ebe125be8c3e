"""What the sides of codecs are run on: with numbers, and without to predict memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_ae.inference import batching, file_jobs, strips
from latent_ae.inference.sides import Side
from latent_ae.inference.streamed import StreamedSide

Patch = Callable[[object, str, object], object]
"""setattr, or that of a pytest.MonkeyPatch"""


class Run(NamedTuple):
    side: Side
    shape: torch.Size
    """of the inputs"""
    in_strips: bool


def runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Each computation of a side of any codec from now on; grows as they come."""
    found: list[Run] = []
    own = Side.__call__

    def noted(side: Side, inputs: Tensor, streamed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        found.append(Run(side, inputs.shape, streamed is not None))
        return own(side, inputs, streamed)

    monkeypatch.setattr(Side, "__call__", noted)
    return found


def predictions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shape of the inputs of each prediction of memory from now on; grows as they come."""
    found: list[tuple[int, ...]] = []
    own = batching.peak_bytes

    def noted(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, **options: Any) -> int:
        found.append(shape)
        return own(module, shape, dtype, **options)

    monkeypatch.setattr(batching, "peak_bytes", noted)
    return found


def in_strips(patch: Patch) -> None:
    """Every image is a large one from now on, and has many strips."""
    patch(batching, "STREAMED_PIXELS", 1)
    patch(strips, "_STRIP_BYTES", 2**14)
    patch(file_jobs, "BATCH_PIXELS", 1)


def in_a_strip(happens: Callable[[], object], patch: Patch) -> list[int]:
    """Let something happen in the 30th convolution of strips. Gives a list that grows with each."""
    convolve, forward = F.conv2d, StreamedSide.forward
    calls: list[int] = []

    def streamed(side: StreamedSide, *given: object, **named: object) -> Tensor:
        calls.append(0)
        return forward(side, *given, **named)

    def convolved(inputs: Tensor, *given: object, **named: object) -> Tensor:
        if calls and not inputs.is_meta:
            calls.append(len(calls))
            if len(calls) == 30:
                happens()
        return convolve(inputs, *given, **named)

    patch(StreamedSide, "forward", streamed)
    patch(F, "conv2d", convolved)
    return calls
