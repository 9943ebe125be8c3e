"""What the sides of codecs are run on: with numbers, and without to predict memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from latent_ae.inference import batching
from latent_ae.inference.sides import Side


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
