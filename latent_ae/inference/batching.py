"""One side of a model over inputs of any number and size: grouped by size, tiled if they are large, within memory."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from latent_ae.inference.memory import DoesNotFit, available_bytes, peak_bytes
from latent_ae.inference.sides import EncoderSide, Side
from latent_ae.inference.streamed import StreamedSide, streamed
from latent_ae.inference.tiling import Seam, Tiling, run_tiled

Grid = tuple[int, int]
"""(h, w) in latent positions"""
Tick = Callable[[float], None]
"""called between pieces of work with the share that is done; what it raises ends the work"""

_COPIES, _COPIES_OF_NUMBERS = 5, 9
"""float32 copies of an image that are alive while it is padded, blended, clamped and rounded, numbers in float64"""
STREAMED_PIXELS = 2048 * 2048
"""of an image above which it goes through in strips on a CPU: a third of the memory, a tenth to a third more time"""
_BATCH_PIXELS = {"cpu": 512 * 512, "cuda": 1024 * 1024}


class Runner:
    """Runs a side of a model. Sizes are grids of latent positions, of `factor` pixels a side each."""

    def __init__(
        self,
        side: Side,
        *,
        channels: int,
        factor: int,
        tiling: Tiling | None,
        memory_bytes: int | None,
        numbers: bool = False,
    ) -> None:
        """Prepare to run a side.

        Args:
            side: of the model, in its precision.
            channels: of the inputs.
            factor: of the model.
            tiling: of large inputs; None: never.
            memory_bytes: what a call may take; None: what is free then.
            numbers: whether images are numbers, whose units take more memory to compute than 8-bit levels.
        """
        encodes = isinstance(side.module, EncoderSide)
        self.side = side
        self._verb = "encoding" if encodes else "decoding"
        self._channels = channels
        self._factor = factor
        self._scale_in, self._scale_out = (factor, 1) if encodes else (1, factor)
        self._tiling = tiling
        self._memory_bytes = memory_bytes
        self._copies = _COPIES_OF_NUMBERS if numbers else _COPIES
        positions = _BATCH_PIXELS["cuda" if side.device.type == "cuda" else "cpu"] // factor**2
        self._batch_positions = 0 if side.form.precision == "exact" else positions
        side_length = math.isqrt(positions) if tiling is None else tiling.tile
        self._ordinary = (side_length, side_length)
        self._predicted: dict[tuple[int, int, int], int] = {}

    def batches(self, grids: Sequence[Grid]) -> list[list[int]]:
        """The places of the inputs that go through together: of one size, and not more than fit.

        Raises DoesNotFit if one alone does not.
        """
        groups: dict[Grid, list[int]] = {}
        for place, grid in enumerate(grids):
            groups.setdefault(grid, []).append(place)
        available = available_bytes(self.side.device) if self._memory_bytes is None else self._memory_bytes
        batches = []
        for grid, places in groups.items():
            most = self._most_at_once(grid, len(places), available)
            batches += [places[first : first + most] for first in range(0, len(places), most)]
        return batches

    def streams(self, grid: Grid) -> bool:
        """Whether inputs of this size go through in strips of rows: large ones, on a CPU, that are not tiled; not in
        `exact`, which is the stock model bit for bit.

        It follows from the size alone, so that an image has the same values however much memory is free.
        """
        pixels = grid[0] * grid[1] * self._factor**2
        large = self.side.device.type == "cpu" and self.side.form.precision != "exact" and pixels > STREAMED_PIXELS
        return large and self.tiles(grid) == 1 and self._in_strips is not None

    def tiles(self, grid: Grid) -> int:
        """1 where inputs of this size go through whole."""
        return 1 if self._tiling is None else self._tiling.count(*grid)

    def predicted_bytes(self, grid: Grid, count: int = 1) -> int:
        """At the peak, for `count` inputs of this size at once, on top of the loaded model."""
        piece = self._piece(grid, count)
        if piece not in self._predicted:
            in_strips = self._in_strips if self.streams(grid) else None
            count, h, w = piece
            self._predicted[piece] = peak_bytes(
                in_strips or self.side.module,
                (count, self._channels, h * self._scale_in, w * self._scale_in),
                self.side.form.dtype,
                channels_last=self.side.form.channels_last or in_strips is not None,
                device=self.side.device.type,
            )
        return self._predicted[piece] + self._image_bytes(grid, count)

    def run(self, inputs: Tensor, tick: Callable[[float], None], seam: Seam | None = None) -> Tensor:
        """Inputs of one size [B,C,h*scale_in,w*scale_in] => outputs [B,C',h*scale_out,w*scale_out], float32.

        `tick` is called after each tile with the share of the inputs' work that it was.
        """
        grid = (inputs.shape[-2] // self._scale_in, inputs.shape[-1] // self._scale_in)
        tiles = self.tiles(grid)
        with torch.no_grad():
            if self._tiling is not None and tiles > 1:
                return run_tiled(
                    self.side,
                    inputs,
                    self._tiling,
                    scale_in=self._scale_in,
                    scale_out=self._scale_out,
                    tick=lambda: tick(1 / tiles),
                    seam=seam,
                )
            if self.streams(grid) and self._in_strips is not None:
                return self.side(inputs, partial(self._in_strips, tick=tick))
            outputs = self.side(inputs)
        tick(1.0)
        return outputs

    @cached_property
    def _in_strips(self) -> StreamedSide | None:
        """The side in strips, made for the first image that needs it, as it has merged kernels of its own."""
        return streamed(self.side.module)

    def seconds(self, inputs: Tensor) -> float:
        """What `run` takes, the better of two."""
        taken = []
        for _ in range(2):
            start = time.perf_counter()
            self.run(inputs, lambda _: None).cpu()  # which waits for an accelerator
            taken.append(time.perf_counter() - start)
        return min(taken)

    def _most_at_once(self, grid: Grid, wanted: int, available: int) -> int:
        most = (
            1
            if self.tiles(grid) > 1 or self.streams(grid)
            else max(1, min(wanted, self._batch_positions // (grid[0] * grid[1])))
        )
        while not self._fits(grid, most, available):
            if most == 1:
                what = f"{self._verb} an image of {grid[1] * self._factor}x{grid[0] * self._factor} pixels"
                raise DoesNotFit(what, self.predicted_bytes(grid), available, tiled=self._tiling is not None)
            most //= 2
        return most

    def _fits(self, grid: Grid, count: int, available: int) -> bool:
        # A prediction takes longer than the work on a small image: where there is room for twice what an ordinary piece
        # takes, smaller ones need none of their own. Bytes grow with the positions, and little else.
        if count * math.prod(self._piece(grid, 1)[1:]) <= math.prod(self._ordinary):
            ordinary = self.predicted_bytes(self._ordinary)
            if 2 * ordinary + self._image_bytes(grid, count) <= available:
                return True
        return self.predicted_bytes(grid, count) <= available

    def _piece(self, grid: Grid, count: int) -> tuple[int, int, int]:
        """What goes through the side at once: inputs, h, w."""
        return (count, *(grid if self._tiling is None else self._tiling.size(*grid)))

    def _image_bytes(self, grid: Grid, count: int) -> int:
        values = max(self._channels * self._scale_in**2, self.side.module.channels * self._scale_out**2)
        return self._copies * count * 4 * values * grid[0] * grid[1]


def shares_of(tick: Tick | None, work: Sequence[int]) -> Iterator[Callable[[float], None]]:
    """For each of several batches a function that takes the share of the batch that is done and calls `tick`.

    `work` says how much each batch is, in any unit.
    """
    done = 0.0

    def add(size: int, share: float) -> None:
        nonlocal done
        done += size * share
        if tick is not None:
            tick(min(1.0, done / sum(work)))

    return (partial(add, size) for size in work)


def part_of(tick: Tick, first: float, last: float) -> Tick:
    """A tick for a part of the work that takes the whole from `first` to `last`."""
    return lambda share: tick(first + (last - first) * share)
