"""Both sides of a model, each over inputs of any number and size: what they give, how, and what it would take.

inputs --grouped by size, whole, in strips or in tiles--> outputs, each with how it was computed
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from latent_ae.errors import UserError
from latent_ae.inference.batching import Grid, Runner, Tick, shares_of
from latent_ae.inference.memory import Plan
from latent_ae.inference.precision import PrecisionReport, SideName
from latent_ae.inference.probe_image import photo_like
from latent_ae.inference.sides import Side
from latent_ae.inference.tiling import Seam, Tiling
from latent_ae.inference.timing import Pace
from latent_ae.io.latent_file.latents import Compute
from latent_ae.models import pad_to_factor

_TIMED_SIDE = 64
"""pixels a side of the image that `paces` times"""


class Ran(NamedTuple):
    """One output of a side."""

    place: int
    """of its input"""
    output: Tensor
    """[1,...] on the CPU"""
    compute: Compute
    seam_db: float | None
    """PSNR of its tiles to one another where they overlap; None where it was not decoded in tiles"""


class BothSides:
    """The encoder and the decoder of one model, in their precisions. Not thread-safe."""

    def __init__(
        self,
        encoder: Side,
        decoder: Side,
        precision: PrecisionReport,
        *,
        name: str,
        channels: int,
        latent_channels: int,
        factor: int,
        tile: int | None,
        memory_bytes: int | None,
        numbers: bool,
    ) -> None:
        """The arguments are those of `Codec`. Raises UserError for a tile that is too small."""
        self._precision, self._name = precision, name
        self._channels, self._latent_channels, self._factor = channels, latent_channels, factor
        self._tile = tile
        self.tiling = None if tile is None else Tiling.of_pixels(tile, factor)
        runner = partial(Runner, factor=factor, tiling=self.tiling, memory_bytes=memory_bytes, numbers=numbers)
        self._runners = {
            "encoder": runner(encoder, channels=channels),
            "decoder": runner(decoder, channels=latent_channels),
        }

    def run(
        self, side: SideName, grids: Sequence[Grid], input_of: Callable[[int], Tensor], tick: Tick | None
    ) -> Iterator[Ran]:
        """Run a side over inputs [1,...] of these grids; those of one size come in their order.

        Raises DoesNotFit before anything is computed, and UserError for outputs that are not finite.
        """
        runner = self._runners[side]
        batches = runner.batches(grids)
        work = [sum(math.prod(grids[place]) for place in batch.places) for batch in batches]
        for (places, in_strips), ticked in zip(batches, shares_of(tick, work), strict=True):
            seam = Seam() if side == "decoder" else None
            inputs = torch.cat([input_of(place) for place in places])
            outputs = runner.run(inputs, ticked, seam, in_strips=in_strips).cpu()
            compute = self._compute(side, grids[places[0]], in_strips=in_strips)
            if not bool(outputs.isfinite().all()):
                raise UserError(
                    f"the {side} of {self._name} gives values that are not finite in {compute.precision}: take fp32"
                )
            seam_db = None if seam is None else seam.decibel  # an image that is tiled is a batch of its own
            yield from (Ran(*each, compute, seam_db) for each in zip(places, outputs.split(1), strict=True))

    def require_room(self, side: SideName, grids: Sequence[Grid]) -> None:
        """Raise DoesNotFit if there is no memory for an input of one of these sizes."""
        self._runners[side].batches(grids)

    def compute(self, side: SideName, grid: Grid) -> Compute:
        """How a side would process an input of this size now."""
        exact = getattr(self._precision, side).precision == "exact"  # the others are not called otherwise in strips
        return self._compute(side, grid, in_strips=exact and self._runners[side].in_strips(grid))

    def advice(self, side: SideName, grid: Grid) -> str:
        """What would fit in place of an input of this size over which the memory ran out, in words."""
        return self._runners[side].advice(grid, share=0.5)

    @cached_property
    def paces(self) -> tuple[Pace, Pace]:
        """How long encoding and decoding take, by what they take on a small image."""
        inputs = pad_to_factor(photo_like(self._channels, max(_TIMED_SIDE, self._factor)), self._factor)
        encoder, decoder = self._runners["encoder"], self._runners["decoder"]
        latents = encoder.run(inputs, lambda _: None, in_strips=False)[:, : self._latent_channels]
        return encoder.pace(inputs), decoder.pace(latents)

    def plan(self, grid: Grid) -> Plan:
        """What an image of this size would take."""
        needed = {
            side: runner.predicted_bytes(grid, in_strips=runner.in_strips(grid))
            for side, runner in self._runners.items()
        }
        pixels = math.prod(grid) * self._factor**2
        encoding, decoding = self.paces
        return Plan(
            tiles=self._runners["encoder"].tiles(grid),
            encode_bytes=needed["encoder"],
            decode_bytes=needed["decoder"],
            encode_seconds=encoding.seconds(pixels),
            decode_seconds=decoding.seconds(pixels),
        )

    def _compute(self, side: SideName, grid: Grid, *, in_strips: bool) -> Compute:
        tiles = self._runners[side].tiles(grid)
        precision = getattr(self._precision, side).precision
        if precision == "exact" and in_strips:  # the same up to the order of sums, and not bit for bit
            precision = "fp32"
        return Compute(precision, self._tile if tiles > 1 else None, tiles)
