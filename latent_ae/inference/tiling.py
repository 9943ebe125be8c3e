"""Images too large to go through a model at once: tiles that overlap, blended where they do.

Not exact, and no overlap would make it so: the stock models normalise over the whole image (GroupNorm) and attend to
all of it, and here both see a tile. How well tiles agree where they overlap is measured (`Seam`).

Everything is laid out in latent positions, so that encoder and decoder share it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from latent_ae.errors import UserError

_MOST_DECIBEL = 100.0
LEAST_TILE = 4
"""positions a side"""


@dataclass(frozen=True)
class Tiling:
    """How large tiles are, in latent positions."""

    tile: int
    overlap: int
    """the least that neighbours share"""

    @classmethod
    def of_pixels(cls, tile: int, factor: int) -> "Tiling":
        """Tiles of `tile` pixels a side that share at least an eighth. Raises UserError if they are too small.

        More overlap than that hardly helps, as most of the error is the normalisation's: a model trained on photographs
        decodes 512 pixels a side in tiles of 128 at 40.5 dB to its decoding at once with an eighth and with a quarter,
        and at 40.7 dB with a third, which takes 36 tiles in place of 25.
        """
        positions = tile // factor
        if positions < LEAST_TILE:
            raise UserError(
                f"tiles of {tile} pixels hold {positions} latent positions a side: "
                f"take {LEAST_TILE * factor} pixels or more"
            )
        return cls(positions, max(1, positions // 8))

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side: evenly spread, each whole, neighbours sharing `overlap` or more."""
        if length <= self.tile:
            return [0]
        count = math.ceil((length - self.overlap) / (self.tile - self.overlap))
        return [round(i * (length - self.tile) / (count - 1)) for i in range(count)]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of a tile of a grid of so many positions."""
        return min(height, self.tile), min(width, self.tile)

    def count(self, height: int, width: int) -> int:
        """Tiles of a grid of so many positions; 1 where it goes through whole."""
        return len(self.starts(height)) * len(self.starts(width))


class Seam:
    """How far tiles are from what the earlier ones had blended to, over all values where they overlap."""

    def __init__(self) -> None:
        self._squares = 0.0
        self._values = 0

    def add(self, tile: Tensor, earlier: Tensor, covered: Tensor) -> None:
        """`covered` [H,W] says where there is something earlier."""
        difference = (tile - earlier)[..., covered]
        self._squares += float(difference.cpu().double().square().sum())  # not every device has float64
        self._values += difference.numel()

    @property
    def decibel(self) -> float | None:
        """PSNR of pixels in [-1, 1], at most 100; None if nothing overlapped."""
        if not self._values:
            return None
        mean = self._squares / self._values
        return min(_MOST_DECIBEL, 10 * math.log10(4 / mean)) if mean else _MOST_DECIBEL


def blend_weights(starts: list[int], tile: int, length: int) -> list[Tensor]:
    """Of each tile along a side [tile]: a trapezoid that falls to its inner ends, scaled so that all sum to 1."""
    if len(starts) == 1:
        return [torch.ones(length)]
    ramp = max(starts[i] + tile - starts[i + 1] for i in range(len(starts) - 1))
    inside = torch.arange(tile, dtype=torch.float64) + 0.5
    weights = []
    for start in starts:
        left = inside if start > 0 else torch.full_like(inside, ramp)
        right = inside.flip(0) if start + tile < length else torch.full_like(inside, ramp)
        weights.append(torch.minimum(left, right).clamp(max=ramp))
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [(weight / total[start : start + tile]).float() for start, weight in zip(starts, weights, strict=True)]


def run_tiled(
    run: Callable[[Tensor], Tensor],
    inputs: Tensor,
    tiling: Tiling,
    *,
    scale_in: int,
    scale_out: int,
    tick: Callable[[], None],
    seam: Seam | None = None,
) -> Tensor:
    """Inputs [B,C,h*scale_in,w*scale_in] => outputs [B,C',h*scale_out,w*scale_out], `run` tile by tile.

    `tick` is called after each tile, and `seam` is told how the outputs of neighbours differ.
    """
    h, w = (side // scale_in for side in inputs.shape[-2:])
    (tile_h, tile_w), (rows, columns) = tiling.size(h, w), (tiling.starts(h), tiling.starts(w))
    row_weights, column_weights = (
        blend_weights([start * scale_out for start in starts], tile * scale_out, length * scale_out)
        for starts, tile, length in ((rows, tile_h, h), (columns, tile_w, w))
    )
    result = total = None
    for (top, row_weight), (left, column_weight) in product(
        zip(rows, row_weights, strict=True), zip(columns, column_weights, strict=True)
    ):
        outputs = run(inputs[(..., *_window(top, left, tile_h, tile_w, scale_in))])
        if result is None or total is None:
            result = outputs.new_zeros(*outputs.shape[:2], h * scale_out, w * scale_out)
            total = outputs.new_zeros(h * scale_out, w * scale_out)
        window = _window(top, left, tile_h, tile_w, scale_out)
        blended, so_far = result[(..., *window)], total[window]
        if seam is not None:
            seam.add(outputs, blended / so_far, so_far > 0)
        weight = (row_weight[:, None] * column_weight).to(outputs.device)
        blended += weight * outputs
        so_far += weight
        tick()
    assert result is not None
    return result


def _window(top: int, left: int, height: int, width: int, scale: int) -> tuple[slice, slice]:
    return slice(top * scale, (top + height) * scale), slice(left * scale, (left + width) * scale)
