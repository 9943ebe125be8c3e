"""Training on images of several shapes: buckets of sizes with about the same area, one bucket per global batch.

    image size -> bucket; (seed, number) -> bucket of the step, image -> crop [C, H, W]

B: global batch size; n: images of a bucket; C H W: channels, height and width.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt, log

import numpy as np
from numpy.typing import NDArray

from latent_ae.config.section import Size
from latent_ae.data.skipped import Bad
from latent_ae.data.source import DataError, ImageSource, stored_size
from latent_ae.data.transforms import size_text
from latent_ae.io.image import BrokenImage
from latent_ae.randomness import numpy_generator


def bucket_sizes(size: Size, *, multiple: int, max_aspect: float) -> list[Size]:
    """Sizes (H, W) with sides that are multiples of `multiple`, from the widest to the highest.

    H * W is at most the area of `size`, with each side as long as that allows; the longer side is at most `max_aspect`
    times the shorter. Raises DataError if `size` has a side that is no multiple of `multiple`, or another aspect ratio
    than is allowed: it would not be among them.
    """
    area, shown = size[0] * size[1], size_text(size)
    if size[0] % multiple or size[1] % multiple:
        raise DataError(f"data.resolution {shown} must be a multiple of the buckets' {multiple}")
    if _aspect(*size) > max_aspect:
        raise DataError(f"data.resolution {shown} must be within the buckets' aspect ratio of {max_aspect:g}")
    sides = range(multiple, int(isqrt(area) * max_aspect) + multiple, multiple)
    fits = [(side, area // side // multiple * multiple) for side in sides]
    highest = {width: height for height, width in fits if width}  # the last of each width
    return [(height, width) for width, height in highest.items() if _aspect(height, width) <= max_aspect]


@dataclass(frozen=True)
class Buckets:
    """The images of each training size, and those that cannot be used."""

    members: dict[Size, NDArray[np.int64]]
    """indices of images in their source, sorted; every bucket holds a batch or more, unless it is the only one"""
    bad: list[Bad]
    """images in no bucket, whose header cannot be read"""


def assign_buckets(source: ImageSource, sizes: Sequence[Size], *, batch_size: int) -> Buckets:
    """Assign each image to the bucket of the nearest logarithm of the aspect ratio, the first one of a tie.

    A batch holds one bucket, so a bucket with fewer images than a batch would repeat an image within it: such buckets
    are removed, the smallest first, and their images go to the nearest remaining one. The images of a source without
    `size` are decoded. Raises DataError if no image can be used.
    """
    aspects: dict[int, float] = {}
    bad: list[Bad] = []
    for index in range(len(source)):
        try:
            height, width = stored_size(source, index)
        except BrokenImage as error:
            bad.append((source.sample_id(index), error.reason))
            continue
        if min(height, width) < 1:
            bad.append((source.sample_id(index), f"it has no pixels ({width}x{height})"))
        else:
            aspects[index] = log(width / height)
    if not aspects:
        raise DataError(f"none of the {len(source)} training images has a size that can be read")
    indices, values = np.array(list(aspects), np.int64), np.array(list(aspects.values()))
    left = list(sizes)
    while True:
        ratios = np.array([log(width / height) for height, width in left])
        nearest = np.abs(values[:, None] - ratios[None]).argmin(1)
        counts = np.bincount(nearest, minlength=len(left))
        smallest = int(counts.argmin())
        if counts[smallest] >= batch_size or len(left) == 1:
            return Buckets({size: indices[nearest == place] for place, size in enumerate(left)}, bad)
        left.pop(smallest)


class BucketOrder:
    """The image and the size of each sample: a pure function of (seed, number).

    A bucket repeats its n images in a new order each time, and batches are cut from this endless sequence: images that
    do not fill a batch in one epoch begin the bucket's first batch in the next. So epoch e has
    floor((e + 1) n / B) - floor(e n / B) batches of it, no image is dropped, and how often two images of a bucket
    have been shown never differs by more than one. The epoch's batches of all buckets are shuffled.
    """

    def __init__(self, buckets: Buckets, *, seed: int, batch_size: int) -> None:
        self._sizes = list(buckets.members)
        self._members = list(buckets.members.values())
        self._seed = seed
        self._batch_size = batch_size

    def size(self, number: int) -> Size:
        """(height, width) of sample `number`, and of its whole global batch."""
        return self._sizes[self._batch(number // self._batch_size)[0]]

    def index(self, number: int) -> int:
        """Index in the source of the image that sample `number` shows."""
        step, place = divmod(number, self._batch_size)
        bucket, batch = self._batch(step)
        members = self._members[bucket]
        epoch, place = divmod(batch * self._batch_size + place, len(members))
        return int(members[_permutation(self._seed, bucket, epoch, len(members))[place]])

    def replacement(self, number: int, attempt: int) -> int:
        """Index of an image of the same bucket to try, at the `attempt`-th time, when the sample's own is unusable."""
        members = self._members[self._batch(number // self._batch_size)[0]]
        return int(members[numpy_generator(self._seed, "replacement", number, attempt).integers(len(members))])

    def _batch(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and the number of the batch among those of its bucket."""
        images = sum(len(members) for members in self._members)
        epochs = (step + len(self._members) + 1) * self._batch_size // images + 2  # an upper bound
        epoch = bisect_right(range(epochs), step, key=self._batches_before) - 1
        batches = _epoch_batches(self._seed, epoch, tuple(map(len, self._members)), self._batch_size)
        return batches[step - self._batches_before(epoch)]

    def _batches_before(self, epoch: int) -> int:
        return sum(len(members) * epoch // self._batch_size for members in self._members)


def _aspect(height: int, width: int) -> float:
    return max(height / width, width / height)


@lru_cache(maxsize=2)  # a step may be requested again after the next epoch has begun
def _epoch_batches(seed: int, epoch: int, images: tuple[int, ...], batch_size: int) -> list[tuple[int, int]]:
    """(bucket, number among the bucket's batches) of the batches of an epoch, in their order."""
    batches = [
        (bucket, batch)
        for bucket, size in enumerate(images)
        for batch in range(size * epoch // batch_size, size * (epoch + 1) // batch_size)
    ]
    return [batches[place] for place in numpy_generator(seed, "buckets", epoch).permutation(len(batches))]


@lru_cache(maxsize=64)  # batches of different buckets alternate
def _permutation(seed: int, bucket: int, epoch: int, size: int) -> NDArray[np.int64]:
    return numpy_generator(seed, "bucket", bucket, epoch).permutation(size)
