"""The order of a stream of images, and the position to resume from: pure functions of the seed.

    shards of epoch e, ordered by (seed, e) -> dealt to S streams -> rows in order -> blocks -> shuffled in a block

A run reads S streams side by side, for any number of processes. Every image comes once in each epoch, in one of the
streams; a stream that has finished its share of an epoch begins the next, so no stream waits.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

from latent_ae.data.order.numbers import rank_numbers
from latent_ae.data.source import DataError
from latent_ae.data.sources.shards import Shards, StoredImage
from latent_ae.randomness import numpy_generator

_BARREN_EPOCHS = 20


@dataclass(frozen=True)
class Position:
    """Where a stream is: the row at which a block starts, and how many images of the block were read."""

    epoch: int = 0
    block: int = 0
    """number of the block in the stream's share of the epoch"""
    place: int = 0
    """number of the shard in the stream's share of the epoch"""
    row: int = 0
    """of the shard, where the block starts"""
    given: int = 0
    """images of the block, in its shuffled order, that were read"""

    def to_json(self) -> dict[str, int]:
        """As `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, int]) -> Self:
        """Raises DataError for other fields or values."""
        names = set(asdict(cls()))
        if set(fields) != names or not all(isinstance(value, int) and value >= 0 for value in fields.values()):
            raise DataError(f"expected a stream's position with {', '.join(sorted(names))}, got {dict(fields)}")
        return cls(**fields)


@dataclass(frozen=True)
class _Block:
    """Images in shuffled order, and the position of the first."""

    start: Position
    images: list[StoredImage]


class ImageStream:
    """One of `count` endless streams that share the images of `shards`.

    With N shards, stream s takes the shards s, s + count, ... of the epoch's order. With N < count, shard n of the
    order goes to all streams s with s % N == n, each of which reads all of it and keeps every k-th row, k the number
    of those streams.

    A block of `block_size` images is read before its first image is returned, and the next block meanwhile. A block
    ends with its epoch. `datasets` shuffles in a buffer that is lost when a run ends; a block can be read again.
    """

    def __init__(
        self, shards: Shards, *, seed: int, number: int, count: int, block_size: int, position: Position | None = None
    ) -> None:
        """Stream `number` of `count`, from `position` on."""
        self._shards = shards
        self._seed = seed
        self._number = number
        self._count = count
        self._block_size = block_size
        start = position or Position()
        self._blocks = self._read_blocks(start)
        self._block = _Block(replace(start, given=0), [])
        self._upcoming: _Block | None = None
        self._given = 0
        if start.given:
            self._block, self._given = self._next_block(), start.given

    @property
    def position(self) -> Position:
        """After the last image that was read."""
        return replace(self._block.start, given=self._given)

    def __next__(self) -> StoredImage:
        """Raises DataError if a shard cannot be read, or if the stream's share was empty for 20 epochs."""
        if self._given == len(self._block.images):
            self._block, self._given = self._next_block(), 0
        elif self._upcoming is None:
            self._upcoming = next(self._blocks)  # one row per image, so that no batch waits for a whole block
        self._given += 1
        return self._block.images[self._given - 1]

    def close(self) -> None:
        """Close the shard that is being read; ends the stream."""
        self._blocks.close()

    def _next_block(self) -> _Block:
        while self._upcoming is None:
            self._upcoming = next(self._blocks)
        block, self._upcoming = self._upcoming, None
        return block

    def _read_blocks(self, start: Position) -> Generator[_Block | None]:
        """Blocks, with a pause (None) after each image that does not complete one."""
        images: list[StoredImage] = []
        first, number = start, start.block
        for at, image in self._read_images(start):
            if at.epoch != first.epoch:
                if images:
                    yield self._shuffled(first, number, images)
                images, number = [], 0
            if not images:
                first = at
            images.append(image)
            if len(images) == self._block_size:
                yield self._shuffled(first, number, images)
                images, number = [], number + 1
            else:
                yield None

    def _shuffled(self, first: Position, number: int, images: list[StoredImage]) -> _Block:
        generator = numpy_generator(self._seed, "stream", first.epoch, self._number, number)
        return _Block(replace(first, block=number), [images[i] for i in generator.permutation(len(images))])

    def _read_images(self, start: Position) -> Iterator[tuple[Position, StoredImage]]:
        """The stream's images in the order of their rows, endlessly."""
        groups = min(len(self._shards), self._count)
        group, lane = self._number % groups, self._number // groups
        lanes = len(range(group, self._count, groups))
        epoch, first_place, first_row, barren = start.epoch, start.place, start.row, 0
        while True:
            barren += 1
            order = numpy_generator(self._seed, "shards", epoch).permutation(len(self._shards))
            for place, shard in enumerate(order[group::groups].tolist()):
                if place < first_place:
                    continue
                for row, image in self._shards.images(shard, first_row):
                    if row % lanes == lane:
                        barren = 0
                        yield Position(epoch=epoch, place=place, row=row), image
                first_row = 0
            epoch, first_place = epoch + 1, 0
            if barren == _BARREN_EPOCHS:
                raise DataError(
                    f"{self._shards.what}: stream {self._number} of {self._count} found no image in {barren} epochs: "
                    "there are too few images for that many streams, lower data.streams"
                )


@dataclass(frozen=True)
class StreamShare:
    """The streams of one rank.

    A global batch of B images takes B / S from each of S streams, stream s those with the indices s * B / S and up.
    `order.rank_numbers` cuts the batch into pieces; each piece has to be a number of whole streams.
    """

    streams: int
    batch_size: int
    accumulation: int
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Raises DataError if the streams cannot be divided among the ranks."""
        self._pieces(self.batch_size)
        pieces = self.world_size * self.accumulation
        if self.streams % pieces or self.batch_size % self.streams:
            counts = range(pieces, self.batch_size + 1, pieces)
            fitting = [str(count) for count in counts if self.batch_size % count == 0]
            raise DataError(
                f"data.streams {self.streams} must be a multiple of processes x train.accumulation = "
                f"{self.world_size} x {self.accumulation} and divide train.batch_size {self.batch_size}: choose one of "
                f"{', '.join(fitting)}"
            )

    def micro_batches(self) -> list[range]:
        """The streams of each micro-batch of a step."""
        return self._pieces(self.streams)

    def all_streams(self) -> list[int]:
        """The rank's streams, in the order of their samples' numbers."""
        return [stream for streams in self.micro_batches() for stream in streams]

    def numbers(self, step: int, stream: int) -> range:
        """Numbers of the samples of a stream at a step."""
        each = self.batch_size // self.streams
        first = step * self.batch_size + stream * each
        return range(first, first + each)

    def _pieces(self, length: int) -> list[range]:
        """The rank's pieces of 0 .. `length` - 1."""
        cut = {"accumulation": self.accumulation, "rank": self.rank, "world_size": self.world_size}
        return rank_numbers(0, batch_size=length, **cut)
