"""Which image each sample of a run shows: pure functions of the seed and the sample's number.

A sample's number is step * global batch size + its index in the global batch; rank and micro-batch do not matter.
"""

from collections.abc import Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latent_ae.config.section import Size
from latent_ae.data.source import DataError
from latent_ae.randomness import numpy_generator


class SampleOrder(Protocol):
    """Which image each sample of a run shows, and at which size."""

    def index(self, number: int) -> int:
        """Of the image in its source."""
        ...

    def replacement(self, number: int, attempt: int) -> int:
        """Index of the image to try, at the `attempt`-th time, when the sample's own cannot be used."""
        ...

    def size(self, number: int) -> Size:
        """(height, width) in pixels, the same for all samples of a global batch."""
        ...


@dataclass(frozen=True)
class EpochOrder:
    """Every image once in each epoch, at one size."""

    images: Sized
    seed: int
    shape: Size

    def index(self, number: int) -> int:
        """Of the image that sample `number` shows."""
        return index_of(self.seed, number, len(self.images))

    def replacement(self, number: int, attempt: int) -> int:
        """Index of any image."""
        return int(numpy_generator(self.seed, "replacement", number, attempt).integers(len(self.images)))

    def size(self, number: int) -> Size:  # noqa: ARG002 - the same for every sample
        """(height, width)."""
        return self.shape


def index_of(seed: int, number: int, size: int) -> int:
    """Index of the image that sample `number` shows, of `size` images; every epoch has its own permutation.

    Raises ValueError if there are no images or `number` is negative.
    """
    if size < 1:
        raise ValueError(f"expected at least one image to order, got {size}")
    epoch, place = divmod(number, size)
    return int(_permutation(seed, epoch, size)[place])


def rank_numbers(step: int, *, batch_size: int, accumulation: int, rank: int, world_size: int) -> list[range]:
    """The numbers of the samples of `rank` at `step`: a range for each of its micro-batches.

    `batch_size` is the global batch. Micro-batch m of rank r is piece m * world_size + r of the batch: k micro-batches
    on one process and one micro-batch on k processes are the same pieces. Raises DataError if the batch cannot be cut
    into equal pieces.
    """
    pieces = world_size * accumulation
    if batch_size % pieces:
        raise DataError(
            f"train.batch_size {batch_size} must be a multiple of processes x train.accumulation = {world_size} x "
            f"{accumulation} = {pieces}: change it to {batch_size + pieces - batch_size % pieces}, or one of the two"
        )
    length = batch_size // pieces
    starts = (step * batch_size + (m * world_size + rank) * length for m in range(accumulation))
    return [range(start, start + length) for start in starts]


@lru_cache(maxsize=4)  # a batch may straddle two epochs, and a test may compare two seeds
def _permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    return numpy_generator(seed, "order", epoch).permutation(size)
