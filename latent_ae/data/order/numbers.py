"""Which image is seen when: pure functions of the seed and the number of the sample in the run.

A sample's number is step * global batch size + its index in the global batch. Neither the rank nor the way a batch is
cut into micro-batches has any say.
"""

from collections.abc import Sized
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latent_ae.data.source import DataError
from latent_ae.data.transforms import Size
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
        """(height, width) in pixels, one and the same for a global batch."""
        ...


@dataclass(frozen=True)
class EpochOrder:
    """Every image of `images` once in each epoch, all of them squares."""

    images: Sized
    seed: int
    side: int

    def index(self, number: int) -> int:
        """Of the image that sample `number` shows."""
        return index_of(self.seed, number, len(self.images))

    def replacement(self, number: int, attempt: int) -> int:
        """Of any image."""
        return replacement_index(self.seed, number, attempt, len(self.images))

    def size(self, number: int) -> Size:  # noqa: ARG002 - the same for every sample
        """(side, side)."""
        return self.side, self.side


def index_of(seed: int, number: int, size: int) -> int:
    """Index of the image that sample `number` shows, of `size` images; every epoch has its own permutation.

    Raises ValueError if there are no images or `number` is negative.
    """
    if size < 1:
        raise ValueError(f"expected at least one image to order, got {size}")
    epoch, place = divmod(number, size)
    return int(_permutation(seed, epoch, size)[place])


def replacement_index(seed: int, number: int, attempt: int, size: int) -> int:
    """Index of the image to try, at the `attempt`-th time, when sample `number` cannot be read."""
    return int(numpy_generator(seed, "replacement", number, attempt).integers(size))


def rank_numbers(step: int, *, batch_size: int, accumulation: int, rank: int, world_size: int) -> list[range]:
    """The numbers of the samples that `rank` takes at `step`: a range for each of its micro-batches.

    `batch_size` is the global batch. Micro-batch m of rank r is the (m * world_size + r)-th piece of the batch, so
    that k micro-batches on one process and one micro-batch on k processes are the same pieces.
    Raises DataError if the batch cannot be cut into equal pieces.
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
