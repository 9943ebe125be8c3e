"""Which samples of a global batch come from which stream, and which streams a rank reads."""

from dataclasses import dataclass

from latent_ae.data.order.numbers import rank_numbers
from latent_ae.data.source import DataError


@dataclass(frozen=True)
class StreamShare:
    """What one rank takes of each step.

    A global batch of B images takes B / S from each of S streams, stream s those with the indices s * B / S and up.
    `order.rank_numbers` cuts the batch into pieces; each of them has to be whole streams.
    """

    streams: int
    batch_size: int
    accumulation: int
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        """Raises DataError if the streams cannot be shared out."""
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
        """Of the samples that a stream gives at a step."""
        each = self.batch_size // self.streams
        first = step * self.batch_size + stream * each
        return range(first, first + each)

    def _pieces(self, length: int) -> list[range]:
        """The rank's pieces of 0 .. `length` - 1."""
        cut = {"accumulation": self.accumulation, "rank": self.rank, "world_size": self.world_size}
        return rank_numbers(0, batch_size=length, **cut)
