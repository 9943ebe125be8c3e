"""Training batches from streams, and the state to resume from.

    Shards -> S ImageStreams -> transforms -> worker's part of a step -> Batch [b, C, H, W]

A global batch of B images takes B / S from each stream, stream s those with the indices s * B / S and up. So batches
do not depend on the numbers of processes, micro-batches and workers, and a run may resume with other numbers.

B b: batch; C H W: channels, height and width; S: streams.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from latent_ae.config.section import Size
from latent_ae.data.loader import Batch, Candidate, Sample, batch_of, data_loader, usable_sample
from latent_ae.data.order.stream import ImageStream, Position, StreamShare
from latent_ae.data.skipped import Bad
from latent_ae.data.source import DataError
from latent_ae.data.sources.shards import Shards, StoredImage
from latent_ae.data.transforms import TrainingCrop
from latent_ae.randomness import numpy_generator


class StreamSamples:
    """The samples of a run from its streams; each crop is a pure function of (seed, number)."""

    def __init__(
        self, shards: Shards, crop: TrainingCrop, *, size: Size, seed: int, streams: int, shuffle_block: int
    ) -> None:
        """`streams` is their number, `shuffle_block` the images per block, `size` that of the crops."""
        self.shards, self.streams, self.shuffle_block = shards, streams, shuffle_block
        self._crop, self._size, self._seed = crop, size, seed

    def stream(self, number: int, position: Position | None = None) -> ImageStream:
        """Stream `number`, from its start or a position."""
        return ImageStream(
            self.shards,
            seed=self._seed,
            number=number,
            count=self.streams,
            block_size=self.shuffle_block,
            position=position,
        )

    def sample(self, stream: ImageStream, number: int) -> Sample:
        """The stream's next usable image as sample `number`; those before it are reported in `bad`.

        Raises DataError if 20 images in a row cannot be used.
        """
        return usable_sample(number, self._size, self._candidates(stream, number))

    def _candidates(self, stream: ImageStream, number: int) -> Iterator[Candidate]:
        while True:
            stored = next(stream)
            yield stored.sample_id, partial(self._cropped, stored, number)

    def _cropped(self, stored: StoredImage, number: int) -> torch.Tensor:
        crop = self._crop(stored.open(), self._size, numpy_generator(self._seed, "crop", number))
        return self._crop.pixel_format.to_tensor(crop)


class StreamLoader:
    """The micro-batches of one rank, in order; `stream_loader` makes it."""

    def __init__(self, samples: StreamSamples, work: "_Work", *, workers: int, pin_memory: bool) -> None:
        self._samples, self._work = samples, work
        self._workers, self._pin_memory = workers, pin_memory
        self._positions = dict(work.positions)

    def __len__(self) -> int:
        return self._work.share.accumulation * len(self._work.steps)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError if a shard cannot be read or too many images in a row cannot be used."""
        work, parts_a_step = self._work, max(1, self._workers)
        loader = data_loader(_Parts(self._samples, work), workers=self._workers)
        self._positions = dict(work.positions)
        parts = iter(loader)  # one part of each worker in turn
        for step in work.steps:
            samples: dict[int, Sample] = {}
            positions: dict[int, Position] = {}
            for _ in range(parts_a_step):
                part = next(parts)
                if isinstance(part, DataError):
                    raise part
                samples |= {sample.number: sample for sample in part.samples()}
                positions |= part.positions
            self._positions = positions
            for streams in work.share.micro_batches():
                numbers = [number for stream in streams for number in work.share.numbers(step, stream)]
                yield batch_of([samples[number] for number in numbers], pin_memory=self._pin_memory)

    def state(self) -> dict[str, Any]:
        """The positions after the micro-batches that were returned, which must be complete steps, for JSON.

        Any number of ranks can resume from the states of all ranks, merged by `merged_state`.
        """
        return {
            "streams": self._samples.streams,
            "shuffle_block": self._samples.shuffle_block,
            "shards": self._samples.shards.identity,
            "positions": {str(stream): position.to_json() for stream, position in self._positions.items()},
        }


def stream_loader(
    samples: StreamSamples,
    *,
    batch_size: int,
    accumulation: int,
    rank: int,
    world_size: int,
    first_step: int,
    steps: int,
    workers: int,
    pin_memory: bool,
    state: Mapping[str, Any] | None = None,
) -> StreamLoader:
    """The micro-batches of `rank` for the steps `first_step` .. `steps` - 1, `accumulation` of them a step, in order.

    Their numbers are those of `order.rank_numbers`. `state` is that of `StreamLoader.state` after `first_step` steps,
    merged over the ranks; None: from the start of the streams. Raises DataError if the streams cannot be divided among
    the ranks or workers, or if the state is one of other streams.
    """
    if workers > samples.streams // world_size:
        raise DataError(
            f"data.workers {workers} exceeds the {samples.streams // world_size} streams of each process: lower it or "
            "raise data.streams"
        )
    share = StreamShare(
        streams=samples.streams, batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size
    )
    numbers = share.all_streams()
    positions = dict.fromkeys(numbers, Position()) if state is None else _saved(state, samples, numbers)
    work = _Work(share, range(first_step, max(first_step, steps)), positions)
    return StreamLoader(samples, work, workers=workers, pin_memory=pin_memory)


def merged_state(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all ranks as one."""
    positions = {stream: position for state in states for stream, position in state["positions"].items()}
    return {**states[0], "positions": positions}


def _saved(state: Mapping[str, Any], samples: StreamSamples, streams: Sequence[int]) -> dict[int, Position]:
    here = {"streams": samples.streams, "shuffle_block": samples.shuffle_block, "shards": samples.shards.identity}
    changed = [f"{name} {state.get(name)} -> {value}" for name, value in here.items() if state.get(name) != value]
    if changed:
        raise DataError(
            f"the saved position is in other data (saved -> now): {', '.join(changed)}: give the former data.streams, "
            "data.shuffle_block and shards, or another --name for a new run"
        )
    missing = [stream for stream in streams if str(stream) not in state["positions"]]
    if missing:
        raise DataError(f"the saved position lacks the streams {missing}: merge the states of all ranks")
    return {stream: Position.from_json(state["positions"][str(stream)]) for stream in streams}


@dataclass(frozen=True)
class _Work:
    """The steps of a rank."""

    share: StreamShare
    steps: range
    positions: dict[int, Position]
    """where its streams begin"""


@dataclass(frozen=True)
class _Part:
    """A worker's samples of one step: one tensor is cheaper to pass between processes than many."""

    pixels: torch.Tensor
    labels: list[tuple[int, str, list[Bad], Size]]
    """number, id, unusable images and size before padding of each sample"""
    positions: dict[int, Position]
    """of the worker's streams after them"""

    def samples(self) -> list[Sample]:
        return [Sample(pixels, *label) for pixels, label in zip(self.pixels, self.labels, strict=True)]


class _Parts(IterableDataset[_Part | DataError]):
    """The parts of the rank's steps: worker w of k reads every k-th of the streams, from the w-th on.

    A DataError is an item: raised in a worker process, it would arrive as a stack trace.
    """

    def __init__(self, samples: StreamSamples, work: _Work) -> None:
        self._samples, self._work = samples, work

    def __iter__(self) -> Iterator[_Part | DataError]:
        worker, share = get_worker_info(), self._work.share
        mine = share.all_streams() if worker is None else share.all_streams()[worker.id :: worker.num_workers]
        streams = {number: self._samples.stream(number, self._work.positions[number]) for number in mine}
        try:
            for step in self._work.steps:
                samples = [
                    self._samples.sample(stream, number)
                    for place, stream in streams.items()
                    for number in share.numbers(step, place)
                ]
                yield _Part(
                    torch.stack([sample.pixels for sample in samples]),
                    [(sample.number, sample.sample_id, sample.bad, sample.valid) for sample in samples],
                    {number: stream.position for number, stream in streams.items()},
                )
        except DataError as error:
            yield error
        finally:
            for stream in streams.values():
                stream.close()
