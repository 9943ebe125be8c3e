"""One side of a model over inputs of any number and size: grouped by size, in strips if they are large, within memory.

    whole      what fits into memory, on a CPU up to STREAMED_PIXELS
    in strips  the same values up to the order of sums: what is larger, by its size alone, and what does not fit whole
    in tiles   an approximation: where it is asked for

So memory decides between a result and an error, and never between two results that differ by more than sums of another
order. `exact` promises the bits of the stock model: there only memory decides, and `Batch.in_strips` tells.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from latent_ae.inference.memory import DoesNotFit, available_bytes, peak_bytes
from latent_ae.inference.sides import EncoderSide, Side
from latent_ae.inference.streamed import StreamedSide, streamed
from latent_ae.inference.tiling import LEAST_TILE, Seam, Tiling, run_tiled
from latent_ae.inference.timing import Pace, measure_pace

Grid = tuple[int, int]
"""(h, w) in latent positions"""
Tick = Callable[[float], None]
"""called between pieces of work with the share that is done; what it raises ends the work"""

_COPIES, _COPIES_OF_NUMBERS = 5, 9
"""float32 copies of an image that are alive while it is padded, blended, clamped and rounded, numbers in float64"""
STREAMED_PIXELS = 2048 * 2048
"""of an image above which it goes through in strips on a CPU: a third of the memory, a tenth to a third more time"""
_TILE = 512
"""pixels a side of the tiles that are suggested for an image that does not fit"""
_ATTEMPTS = 12
"""to find the size that fits; each comes within a few percent, for an image that is not a line"""
_BATCH_PIXELS = {"cpu": 512 * 512, "cuda": 1024 * 1024}


class Batch(NamedTuple):
    """Inputs that go through together."""

    places: list[int]
    in_strips: bool


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
        self._predicted: dict[tuple[int, int, int, bool], int] = {}

    def batches(self, grids: Sequence[Grid]) -> list[Batch]:
        """The inputs that go through together: of one size, and not more than fit.

        Raises DoesNotFit if one alone does not.
        """
        groups: dict[Grid, list[int]] = {}
        for place, grid in enumerate(grids):
            groups.setdefault(grid, []).append(place)
        available = self._available()
        batches = []
        for grid, places in groups.items():
            most, in_strips = self._at_once(grid, len(places), available)
            if not most:
                raise self._refusal(grid, available)
            batches += [Batch(places[first : first + most], in_strips) for first in range(0, len(places), most)]
        return batches

    def streams(self, grid: Grid) -> bool:
        """Whether inputs of this size go through in strips of rows whatever memory is free: large ones on a CPU, where
        it costs little; not in `exact`, which is the stock model bit for bit.
        """
        large = self.side.device.type == "cpu" and grid[0] * grid[1] * self._factor**2 > STREAMED_PIXELS
        return large and self.side.form.precision != "exact" and self._can_stream(grid)

    def in_strips(self, grid: Grid) -> bool:
        """Whether an input of this size would go through in strips now: also because it does not fit whole."""
        most, in_strips = self._at_once(grid, 1, self._available())
        return in_strips if most else self._can_stream(grid)

    def tiles(self, grid: Grid) -> int:
        """1 where inputs of this size go through whole."""
        return 1 if self._tiling is None else self._tiling.count(*grid)

    def predicted_bytes(self, grid: Grid, count: int = 1, *, in_strips: bool | None = None) -> int:
        """At the peak, for `count` inputs of this size at once, on top of the loaded model; None: as `streams` says."""
        in_strips = self.streams(grid) if in_strips is None else in_strips
        piece = (*self._piece(grid, count), in_strips)
        if piece not in self._predicted:
            count, h, w, _ = piece
            self._predicted[piece] = peak_bytes(
                (self._strips if in_strips else None) or self.side.module,
                (count, self._channels, h * self._scale_in, w * self._scale_in),
                self.side.form.dtype,
                channels_last=self.side.form.channels_last or in_strips,
                device=self.side.device.type,
                in_strips=in_strips,
            )
        return self._predicted[piece] + self._image_bytes(grid, count)

    def run(self, inputs: Tensor, tick: Tick, seam: Seam | None = None, *, in_strips: bool | None = None) -> Tensor:
        """Inputs of one size [B,C,h*scale_in,w*scale_in] => outputs [B,C',h*scale_out,w*scale_out], float32.

        `tick` is called after each tile or strip with the share of the inputs' work that it was. `in_strips` None: as
        `streams` says.
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
            if (self.streams(grid) if in_strips is None else in_strips) and self._strips is not None:
                return self.side(inputs, partial(self._strips, tick=tick))
            outputs = self.side(inputs)
        tick(1.0)
        return outputs

    def largest(self, grid: Grid, share: float = 1.0) -> Grid | None:
        """The largest input of about these proportions that fits into memory now, with at most this share of the
        positions; to about a twentieth. None if none fits.
        """
        return self._largest(grid, share, self._available())

    def advice(self, grid: Grid, share: float = 1.0) -> str:
        """What would fit in place of an image of this size that does not, in words."""
        available = self._available()
        return self._advice(grid, self._largest(grid, share, available), available, share)

    def pace(self, inputs: Tensor) -> Pace:
        """How long the side takes, by what it takes on small inputs [1,...]."""
        pixels = inputs[0, 0].numel() // self._scale_in**2 * self._factor**2
        attended = None if self._tiling is None else (self._tiling.tile * self._factor) ** 2
        with torch.no_grad():
            return measure_pace(self.side, inputs, pixels, attended=attended)

    @cached_property
    def _strips(self) -> StreamedSide | None:
        """The side in strips, made for the first image that needs it, as it has merged kernels of its own."""
        return streamed(self.side.module)

    def _can_stream(self, grid: Grid) -> bool:
        # Strips add up in float64, which Apple's GPUs do not have.
        return self.tiles(grid) == 1 and self.side.device.type in _BATCH_PIXELS and self._strips is not None

    def _available(self) -> int:
        return available_bytes(self.side.device) if self._memory_bytes is None else self._memory_bytes

    def _at_once(self, grid: Grid, wanted: int, available: int) -> tuple[int, bool]:
        """How many inputs of a size go through at once, 0 if not even one fits; and whether in strips."""
        if not self.streams(grid):
            most = 1 if self.tiles(grid) > 1 else max(1, min(wanted, self._batch_positions // (grid[0] * grid[1])))
            while most:
                if self._fits(grid, most, available):
                    return most, False
                most //= 2
        fits = self._can_stream(grid) and self.predicted_bytes(grid, in_strips=True) <= available
        return int(fits), fits

    def _refusal(self, grid: Grid, available: int) -> DoesNotFit:
        in_strips = self._can_stream(grid)
        largest = self._largest(grid, 1.0, available)
        (h, w), factor = grid, self._factor
        what = f"{self._verb} an image of {w * factor}x{h * factor} pixels{' even in strips of rows' * in_strips}"
        return DoesNotFit(
            what,
            self.predicted_bytes(grid, in_strips=in_strips),
            available,
            self._advice(grid, largest, available, 1.0),
            largest=None if largest is None else (largest[0] * factor, largest[1] * factor),
        )

    def _largest(self, grid: Grid, share: float, available: int) -> Grid | None:
        h, w = grid
        scale = min(1.0, math.sqrt(share))
        for _ in range(_ATTEMPTS):
            smaller = max(1, int(h * scale)), max(1, int(w * scale))
            if self._at_once(smaller, 1, available)[0]:
                return smaller
            if smaller == (1, 1):
                break
            needed = self.predicted_bytes(smaller, in_strips=self._can_stream(smaller))
            scale *= 0.97 * math.sqrt(min(1.0, available / needed))
        return None

    def _advice(self, grid: Grid, largest: Grid | None, available: int, share: float) -> str:
        side = self._ordinary[0] * self._factor // 2 if self._tiling else _TILE
        while side >= LEAST_TILE * self._factor and not self._tile_fits(grid, side // self._factor, available, share):
            side //= 2
        size = "" if largest is None else f"{largest[1] * self._factor}x{largest[0] * self._factor} pixels would fit"
        tiles = f"--tile {side}, an approximation" if side >= LEAST_TILE * self._factor else ""
        return ", or ".join(filter(None, [size, tiles])) or "take a smaller image, or free some memory"

    def _tile_fits(self, grid: Grid, tile: int, available: int, share: float) -> bool:
        smaller = min(grid[0], tile), min(grid[1], tile)
        if smaller == grid or math.prod(smaller) > share * math.prod(grid):
            return False
        needed = self.predicted_bytes(smaller, in_strips=False) - self._image_bytes(smaller, 1)
        return needed + self._image_bytes(grid, 1) <= available

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
