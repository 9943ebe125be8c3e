"""Batches of pixels for training and evaluation.

    (seed, number) -> order -> source -> transforms -> [C, h, w] -> padded [C, H, W] -> Batch [b, C, H, W]

B b: batch; C: channels; H W: height and width, h w before padding.
"""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Any, Generic, Self, TypeVar

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from latent_ae.config.section import Size
from latent_ae.data.kept import KeptImages
from latent_ae.data.order.numbers import SampleOrder, rank_numbers
from latent_ae.data.skipped import Bad
from latent_ae.data.source import DataError, ImageSource, opener
from latent_ae.data.transforms import BY_CROP, Fitting, TrainingCrop, evaluation_view
from latent_ae.errors import UserError
from latent_ae.io.image import BrokenImage, Color
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.randomness import numpy_generator

_ATTEMPTS = 20
B = TypeVar("B")


@dataclass(frozen=True)
class Sample:
    """One training crop."""

    pixels: torch.Tensor
    """[C, H, W] float32 in [-1, 1]"""
    number: int
    """step * global batch size + index in the global batch"""
    sample_id: str
    """of its image"""
    bad: list[Bad]
    """unusable images that it replaces"""
    valid: Size
    """height and width of its upper left part that is no padding"""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of training crops, in the order of their numbers."""

    pixels: torch.Tensor
    """[b, C, H, W] float32 in [-1, 1]"""
    numbers: list[int]
    """of each crop: step * global batch size + index in the global batch"""
    sample_ids: list[str]
    """of the image of each crop"""
    bad: list[Bad]
    """unusable images that they replace"""
    valid: torch.Tensor | None = None
    """[b, 2] int64, height and width of the upper left part of each that is no padding; None where none is padded"""

    def pin_memory(self) -> Self:
        """For the DataLoader: the batch with its pixels in page-locked memory."""
        return replace(self, pixels=self.pixels.pin_memory())


def batch_of(samples: Sequence[Sample], *, pin_memory: bool = False) -> Batch:
    """The samples as a batch, its pixels in page-locked memory with `pin_memory`."""
    crops = [sample.pixels for sample in samples]
    whole = all(sample.valid == sample.pixels.shape[1:] for sample in samples)
    return Batch(
        pixels=torch.stack(crops, out=torch.empty((len(crops), *crops[0].shape), pin_memory=pin_memory)),
        numbers=[sample.number for sample in samples],
        sample_ids=[sample.sample_id for sample in samples],
        bad=[bad for sample in samples for bad in sample.bad],
        valid=None if whole else torch.tensor([sample.valid for sample in samples]),
    )


@dataclass(frozen=True)
class EvaluationBatch:
    """Images of one size."""

    pixels: torch.Tensor
    """[b, C, H, W] float32 in [-1, 1]"""
    indices: list[int]
    """of each image in its source"""
    sample_ids: list[str]


Candidate = tuple[str, Callable[[], torch.Tensor]]
"""(id of an image, function that makes its crop [C, h, w] in [-1, 1] or raises BrokenImage)"""


def usable_sample(number: int, size: Size, candidates: Iterator[Candidate]) -> Sample:
    """Sample `number` from the first usable candidate; those before it are reported in `bad`.

    A crop within `size` (H, W) is padded at the bottom and right by repeating its edge, as `pad_to_factor` does. Raises
    DataError if 20 images in a row cannot be used.
    """
    bad: list[Bad] = []
    for sample_id, crop in islice(candidates, _ATTEMPTS):
        try:
            pixels = crop()
        except BrokenImage as error:
            bad.append((sample_id, error.reason))
            continue
        height, width = pixels.shape[1:]
        if (height, width) != size:
            pixels = F.pad(pixels, (0, size[1] - width, 0, size[0] - height), mode="replicate")
        return Sample(pixels, number, sample_id, bad, (height, width))
    sample_id, reason = bad[-1]
    raise DataError(
        f"{_ATTEMPTS} images in a row cannot be used, the last of them {sample_id}: {reason}: "
        "check the images and data.resolution"
    )


class TrainingSamples(Dataset[Sample]):
    """The run's samples by number: each is a pure function of (seed, number), in any process.

    An unusable image is reported in `bad` and replaced by one that is a function of (seed, number), too.
    """

    def __init__(
        self, source: ImageSource, order: SampleOrder, crop: TrainingCrop, *, seed: int, keep_bytes: int = 0
    ) -> None:
        """`keep_bytes` is the memory of this process for decoded images, which are kept if all fit."""
        self._source, self._open = source, KeptImages(source, keep_bytes)
        self._order = order
        self._crop = crop
        self._seed = seed

    def __getitem__(self, number: int) -> Sample:
        """Raises DataError if 20 images in a row cannot be used."""
        return usable_sample(number, self._order.size(number), self._candidates(number))

    def _candidates(self, number: int) -> Iterator[Candidate]:
        index = self._order.index(number)
        for attempt in count():
            yield self._source.sample_id(index), partial(self._cropped, index, number)
            index = self._order.replacement(number, attempt)

    def _cropped(self, index: int, number: int) -> torch.Tensor:
        generator = numpy_generator(self._seed, "crop", number)
        crop = self._crop(self._open(index), self._order.size(number), generator)
        return self._crop.pixel_format.to_tensor(crop)


class TrainingLoader(Generic[B]):
    """The micro-batches of one rank, in order; `training_loader` makes it."""

    def __init__(self, batches: Iterable[B | UserError], length: int) -> None:
        self._batches = batches
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[B]:
        """Raises DataError if too many images in a row cannot be used, or what else a sample raised."""
        for batch in self._batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def training_loader(
    samples: Dataset[Any],
    *,
    collate: Callable[[list[Any]], B],
    batch_size: int,
    accumulation: int,
    rank: int,
    world_size: int,
    first_step: int,
    steps: int,
    workers: int,
    pin_memory: bool,
) -> TrainingLoader[B]:
    """The micro-batches of `rank` for the steps `first_step` .. `steps` - 1, `accumulation` of them a step, in order.

    `samples` are by their number in the run, and `collate` makes a batch of them. `batch_size` is the global batch, the
    same as that of an order of buckets. `workers` processes make the batches (0: this one), without effect on them.
    Raises DataError if the batch cannot be cut into equal pieces.
    """
    pieces = partial(rank_numbers, batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size)
    pieces(first_step)  # raises here and not in the loop
    indices = range(first_step * accumulation, steps * accumulation)
    loader = data_loader(
        _MicroBatches(samples, pieces, accumulation, collate), indices, workers=workers, pin_memory=pin_memory
    )
    return TrainingLoader(loader, accumulation * max(0, steps - first_step))


def evaluation_batches(
    source: ImageSource,
    pixels: PixelFormat,
    *,
    size: int | Size | None,
    background: Color,
    fitting: Fitting = BY_CROP,
    batch_size: int,
    limit: int | None,
    on_bad: Callable[[str, str], None],
    pixels_at_once: int | None = None,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
) -> Iterator[EvaluationBatch]:
    """`limit` images spread evenly over a source (None: all), in order, as `transforms.evaluation_view` makes them.

    They are not the first ones, as folders often hold one class after the other.

    Consecutive images of the same size share a batch of up to `batch_size`, and of up to `pixels_at_once` pixels unless
    one alone has more. With `shard` (rank, world size) a rank
    takes the images rank, rank + world size, ... An unusable image is left out, and `on_bad` is called with its id and
    the reason. `workers` processes load images (0: this one).
    """
    rank, world_size = shard
    total = len(source)
    count = total if limit is None else min(limit, total)
    indices = [place * total // count for place in range(rank, count, world_size)]
    loader = data_loader(_Views(source, pixels, size, background, fitting), indices, workers=workers)
    group: list[tuple[int, torch.Tensor]] = []
    for index, view in loader:
        if isinstance(view, str):
            on_bad(source.sample_id(index), view)
            continue
        if group and group[0][1].shape != view.shape:
            yield _evaluation_batch(source, group)
            group = []
        group.append((index, view))
        # A full batch is handed on before the next image is loaded, which may be large.
        if len(group) == batch_size or (pixels_at_once or math.inf) < (len(group) + 1) * view[0].numel():
            yield _evaluation_batch(source, group)
            group = []
    if group:
        yield _evaluation_batch(source, group)


def data_loader(
    dataset: Dataset[Any], indices: Iterable[Any] | None = None, *, workers: int, pin_memory: bool = False
) -> DataLoader[Any]:
    """The items of a dataset at `indices`, in order (None: all items of an IterableDataset), made by `workers`
    processes (0: this one). The project's only DataLoader.
    """
    return DataLoader(
        dataset,
        sampler=indices,
        batch_size=None,
        num_workers=workers,  # torch gives each of them one thread
        collate_fn=_as_it_is,
        worker_init_fn=_ignore_interrupts,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else the loader takes its seed from the process's global generator
    )


def _as_it_is(item: Any) -> Any:
    return item


def _ignore_interrupts(_worker: int) -> None:
    # Ctrl-C goes to every process of the terminal, and the main one needs batches until it has saved.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _MicroBatches(Dataset[B | UserError]):
    """A rank's micro-batches: number m of step s is s * accumulation + m.

    An error is handed on: raised in a worker, it would be a stack trace.
    """

    def __init__(
        self,
        samples: Dataset[Any],
        pieces: Callable[[int], list[range]],
        accumulation: int,
        collate: Callable[[list[Any]], B],
    ) -> None:
        self._samples, self._pieces, self._accumulation, self._collate = samples, pieces, accumulation, collate

    def __getitem__(self, number: int) -> B | UserError:
        step, micro_batch = divmod(number, self._accumulation)
        try:
            return self._collate([self._samples[n] for n in self._pieces(step)[micro_batch]])
        except UserError as error:
            return error


class _Views(Dataset[tuple[int, torch.Tensor | str]]):
    """Evaluation views by index; for an unusable image, the reason."""

    def __init__(
        self, source: ImageSource, pixels: PixelFormat, size: int | Size | None, background: Color, fitting: Fitting
    ) -> None:
        self._open, self._pixels = opener(source), pixels
        self._view = partial(evaluation_view, pixel_format=pixels, size=size, background=background, fitting=fitting)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor | str]:
        try:
            view = self._view(self._open(index))
        except BrokenImage as error:
            return index, error.reason
        return index, self._pixels.to_tensor(view)


def _evaluation_batch(source: ImageSource, group: list[tuple[int, torch.Tensor]]) -> EvaluationBatch:
    indices = [index for index, _ in group]
    # A single image is not copied, as it may be large.
    pixels = group[0][1][None] if len(group) == 1 else torch.stack([view for _, view in group])
    return EvaluationBatch(pixels, indices, [source.sample_id(index) for index in indices])
