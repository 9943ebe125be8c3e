"""Training on images of several shapes: buckets of about the same area, one of them a global batch.

    image size -> bucket; (seed, number) -> bucket of the step, image -> crop [C, H, W]

Letters: B global batch size, n images of a bucket, C channels, H W height and width.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from math import log
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from latent_ae.data.loader import Candidate, Sample, usable_sample
from latent_ae.data.skipped import Bad
from latent_ae.data.source import DataError, ImageSource
from latent_ae.data.transforms import augmented, cut, eight_bit
from latent_ae.io.image import WHITE, BrokenImage, Color, Pixels
from latent_ae.randomness import numpy_generator

Size = tuple[int, int]
"""height, width in pixels"""

_LARGEST_ENLARGEMENT = 4
_SMALLEST_SIDE_PIXELS = 8


@runtime_checkable
class SizedSource(Protocol):
    """An ImageSource that knows how large its images are without decoding them."""

    def size(self, index: int) -> Size:
        """(height, width) of the upright image. Raises BrokenImage."""
        ...


def bucket_sizes(resolution: int, *, multiple: int, max_aspect: float) -> list[Size]:
    """Sizes (H, W) with sides that are multiples of `multiple`, from the widest to the highest.

    H * W is at most resolution^2 and neither side could be longer; the longer side is at most `max_aspect` times the
    shorter. Raises DataError if `resolution` is no multiple of `multiple` (the square would be missing).
    """
    if resolution % multiple:
        raise DataError(f"data.resolution {resolution} must be a multiple of the buckets' {multiple}")
    sides = range(multiple, int(resolution * max_aspect) + multiple, multiple)
    fits = [(side, resolution**2 // side // multiple * multiple) for side in sides]
    highest = {width: height for height, width in fits if width}  # the last of each width
    return [(height, width) for width, height in highest.items() if _aspect(height, width) <= max_aspect]


@dataclass(frozen=True)
class Buckets:
    """The images of each size that is trained on, and those that cannot be."""

    members: dict[Size, NDArray[np.int64]]
    """indices of images in their source, in order; every bucket holds a batch or more, unless it is the only one"""
    bad: list[Bad]
    """images whose header cannot be read, which are in no bucket"""


def assign_buckets(source: ImageSource, sizes: Sequence[Size], *, batch_size: int) -> Buckets:
    """Each image goes to the bucket whose aspect ratio is nearest, by its logarithm, and of two as near the first.

    As batches hold one bucket only, those with fewer images than a batch would show one image several times at once:
    beginning with the smallest, they are given up and their images go to the nearest one left. A source without
    `size` decodes its images here. Raises DataError if no image can be used.
    """
    aspects: dict[int, float] = {}
    bad: list[Bad] = []
    for index in range(len(source)):
        try:
            height, width = _size(source, index)
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
    """Which image is seen when, and at which size: a pure function of (seed, number).

    Bucket k runs through its n images again and again, each time in another order, and batches are cut from this
    endless sequence: images that do not fill a batch in one epoch begin the bucket's first batch in the next. So
    floor((e + 1) n / B) - floor(e n / B) batches of it come in epoch e, no image is dropped, and none is ever ahead
    of another one in its bucket by more than one. The epoch's batches of all buckets are shuffled.
    """

    def __init__(self, buckets: Buckets, *, seed: int, batch_size: int) -> None:
        self._sizes = list(buckets.members)
        self._members = list(buckets.members.values())
        self._seed = seed
        self._batch_size = batch_size

    def size(self, step: int) -> Size:
        """(height, width) of all images of a global batch."""
        return self._sizes[self._batch(step)[0]]

    def index(self, number: int) -> int:
        """Index in the source of the image that sample `number` shows."""
        step, place = divmod(number, self._batch_size)
        bucket, batch = self._batch(step)
        members = self._members[bucket]
        epoch, place = divmod(batch * self._batch_size + place, len(members))
        return int(members[_permutation(self._seed, bucket, epoch, len(members))[place]])

    def replacement(self, number: int, attempt: int) -> int:
        """Index of the image to try, at the `attempt`-th time, when sample `number` cannot be read: of its bucket."""
        members = self._members[self._batch(number // self._batch_size)[0]]
        return int(members[numpy_generator(self._seed, "replacement", number, attempt).integers(len(members))])

    def _batch(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and the number of the batch among those of its bucket."""
        images = sum(len(members) for members in self._members)
        epochs = (step + len(self._members) + 1) * self._batch_size // images + 2  # surely more than there were
        epoch = bisect_right(range(epochs), step, key=self._batches_before) - 1
        batches = _epoch_batches(self._seed, epoch, tuple(map(len, self._members)), self._batch_size)
        return batches[step - self._batches_before(epoch)]

    def _batches_before(self, epoch: int) -> int:
        return sum(len(members) * epoch // self._batch_size for members in self._members)


class BucketSamples(Dataset[Sample]):
    """The run's samples by number, as `loader.TrainingSamples`, all of a global batch of one size."""

    def __init__(
        self,
        source: ImageSource,
        order: BucketOrder,
        *,
        seed: int,
        batch_size: int,
        channels: int,
        crop: str = "center",
        flip: bool = False,
        color_gain: float = 0.0,
        background: Color = WHITE,
    ) -> None:
        """The arguments after `batch_size` are those of `bucket_crop`."""
        self._source = source
        self._order = order
        self._seed = seed
        self._batch_size = batch_size
        self._crop = partial(
            bucket_crop, channels=channels, crop=crop, flip=flip, color_gain=color_gain, background=background
        )

    def __getitem__(self, number: int) -> Sample:
        """Raises DataError if 20 images in a row cannot be used."""
        return usable_sample(number, self._candidates(number))

    def _candidates(self, number: int) -> Iterator[Candidate]:
        index = self._order.index(number)
        for attempt in count():
            yield self._source.sample_id(index), partial(self._pixels, index, number)
            index = self._order.replacement(number, attempt)

    def _pixels(self, index: int, number: int) -> Pixels:
        size = self._order.size(number // self._batch_size)
        return self._crop(self._source.load(index), size=size, generator=numpy_generator(self._seed, "crop", number))


def bucket_crop(
    image: Image.Image,
    *,
    size: Size,
    channels: int,
    crop: str,
    flip: bool,
    color_gain: float,
    background: Color,
    generator: np.random.Generator,
) -> Pixels:
    """An image -> [H, W, channels] uint8: its largest part of that aspect ratio, resized.

    Along the side that is cut, the part is centred (crop "center") or anywhere ("random"). `flip` and `color_gain`
    are those of `transforms.training_crop`. Raises BrokenImage if the image would be enlarged more than 4 times or a
    side of it is below 8 pixels.
    """
    if crop not in ("center", "random"):
        raise ValueError(f"expected the crop center or random, got {crop}")
    whole = eight_bit(image, channels, background)
    height, width = size
    part_width = min(whole.width, max(1, round(whole.height * width / height)))
    part_height = min(whole.height, max(1, round(whole.width * height / width)))
    if part_width * _LARGEST_ENLARGEMENT < width or min(whole.size) < _SMALLEST_SIDE_PIXELS:
        raise BrokenImage(
            f"too small: got {whole.width}x{whole.height}, need 8 pixels a side and a quarter of {width}x{height}"
        )
    room_x, room_y = whole.width - part_width, whole.height - part_height
    left, top = room_x // 2, room_y // 2
    if crop == "random":
        left, top = (int(generator.integers(room, endpoint=True)) for room in (room_x, room_y))
    box = (left, top, left + part_width, top + part_height)
    pixels = cut(whole, box, size, channels)
    return augmented(pixels, flip=flip, color_gain=color_gain, generator=generator)


def _size(source: ImageSource, index: int) -> Size:
    if isinstance(source, SizedSource):
        return source.size(index)
    image = source.load(index)
    return image.height, image.width


def _aspect(height: int, width: int) -> float:
    return max(height / width, width / height)


@lru_cache(maxsize=2)  # a step may be asked for again after the next epoch has begun
def _epoch_batches(seed: int, epoch: int, images: tuple[int, ...], batch_size: int) -> list[tuple[int, int]]:
    """(bucket, number among the bucket's batches) of the batches of an epoch, in their order."""
    batches = [
        (bucket, batch)
        for bucket, size in enumerate(images)
        for batch in range(size * epoch // batch_size, size * (epoch + 1) // batch_size)
    ]
    return [batches[place] for place in numpy_generator(seed, "buckets", epoch).permutation(len(batches))]


@lru_cache(maxsize=64)  # batches of different buckets take turns
def _permutation(seed: int, bucket: int, epoch: int, size: int) -> NDArray[np.int64]:
    return numpy_generator(seed, "bucket", bucket, epoch).permutation(size)
