"""Where a run's micro-batches come from: images by number, images in buckets of sizes, or streams."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from latent_ae.data import (
    Batch,
    DataConfig,
    ImageSource,
    SourceParts,
    StreamParts,
    TrainingLoader,
    TrainingSamples,
    training_loader,
)
from latent_ae.data.loader import batch_of
from latent_ae.data.order.buckets import BucketOrder, assign_buckets, bucket_sizes
from latent_ae.data.order.numbers import EpochOrder
from latent_ae.data.skipped import Bad
from latent_ae.data.stream_loader import StreamLoader, StreamSamples, merged_state, stream_loader
from latent_ae.data.transforms import TrainingCrop
from latent_ae.errors import UserError
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models.run_folders import PIXEL_FORMAT
from latent_ae.training.checkpoint.files import IMAGES
from latent_ae.training.distributed import gather_from_processes
from latent_ae.training.settings import RunConfig


class TrainingData:
    """The micro-batches of a run, from any step on.

    Args:
        parts: what the source gave.
        config: the settings of the run.
        accelerator: this process's place among all.
        pixels: what the images' values mean.
        factor: of the model, which sides have to be multiples of.
    """

    def __init__(
        self, parts: SourceParts, config: RunConfig, accelerator: Accelerator, *, pixels: PixelFormat, factor: int
    ) -> None:
        self.bad: list[Bad] = []
        """images that were found unusable before the first step"""
        self.images: object = None
        """fingerprint of the images, for checkpoints (JSON)"""
        self.start: Any = None
        """where streams go on: what `place` gave under "data" """
        self._config = config
        self._accelerator = accelerator
        self._pixels = pixels
        self._cropped = training_samples(parts.train, config.data, pixels, seed=config.seed)
        self._numbered = self._cropped
        self._streams: StreamSamples | None = None
        self._loader: TrainingLoader[Batch] | StreamLoader | None = None
        if isinstance(parts, StreamParts):
            self._streams = _stream_samples(parts, config, pixels)
        elif config.data.buckets:
            self._numbered, self.bad = _bucket_samples(parts.train, config, pixels, factor=factor)
        self._loader_from(0)  # a batch that cannot be shared out is refused here, before the run writes anything

    def crops(self, count: int) -> Tensor:
        """Training crops [count, C, H, W] to look at before the first step."""
        return torch.stack([self._cropped[number].pixels for number in range(count)])

    def updates(self, first_step: int) -> Iterator[list[Batch]]:
        """This process's micro-batches of each update, from `first_step` to the last."""
        self._loader = self._loader_from(first_step)
        batches = iter(self._loader)
        while micro := list(islice(batches, self._config.train.accumulation)):
            yield micro

    def _loader_from(self, first_step: int) -> TrainingLoader[Batch] | StreamLoader:
        train, data, process = self._config.train, self._config.data, self._accelerator
        place: dict[str, Any] = {
            "batch_size": train.batch_size,
            "accumulation": train.accumulation,
            "rank": process.process_index,
            "world_size": process.num_processes,
            "first_step": first_step,
            "steps": train.steps,
            "workers": data.workers,
            "pin_memory": process.device.type == "cuda",
        }
        if self._streams is not None:
            return stream_loader(self._streams, state=self.start, **place)
        return training_loader(self._numbered, collate=batch_of, **place)

    def place(self) -> dict[str, object]:
        """Where streams go on after the updates that were handed out (None where the step says it all), what is
        trained on, and what its values mean; for a checkpoint. To be called on every process together.
        """
        state = self.start  # as long as no update was handed out
        if isinstance(self._loader, StreamLoader):
            state = merged_state(gather_from_processes(self._loader.state(), self._accelerator))
        place = {"data": state, IMAGES: self.images}
        return place if self._pixels.is_default else {**place, PIXEL_FORMAT: self._pixels.to_json()}


def training_samples(source: ImageSource, config: DataConfig, pixels: PixelFormat, *, seed: int) -> TrainingSamples:
    """Endless training crops of one size, each a pure function of the seed and its number.

    With buckets they are to look at alone, and centred: at their own size, images that a bucket takes may be too small.
    """
    crop = _crop(config, pixels)
    crop = replace(crop, crop="center") if config.buckets else crop
    return TrainingSamples(
        source, EpochOrder(source, seed, config.crop_size), crop, seed=seed, keep_bytes=config.kept_bytes
    )


def _crop(config: DataConfig, pixels: PixelFormat) -> TrainingCrop:
    return TrainingCrop(
        pixel_format=pixels,
        crop=config.crop,
        scale=config.scale,
        largest=config.buckets,
        fitting=config.fitting,
        flip=config.flip,
        color_gain=config.color_gain,
        background=config.background,
    )


def _stream_samples(parts: StreamParts, config: RunConfig, pixels: PixelFormat) -> StreamSamples:
    data = config.data
    return StreamSamples(
        parts.stream,
        _crop(data, pixels),
        size=data.crop_size,
        seed=config.seed,
        streams=parts.streams,
        shuffle_block=parts.shuffle_block,
    )


def _bucket_samples(
    source: ImageSource, config: RunConfig, pixels: PixelFormat, *, factor: int
) -> tuple[TrainingSamples, list[Bad]]:
    data, batch_size = config.data, config.train.batch_size
    if data.bucket_multiple % factor:
        raise UserError(f"data.bucket_multiple {data.bucket_multiple} is not a multiple of the model's factor {factor}")
    sizes = bucket_sizes(data.crop_size, multiple=data.bucket_multiple, max_aspect=data.bucket_max_aspect)
    buckets = assign_buckets(source, sizes, batch_size=batch_size)
    order = BucketOrder(buckets, seed=config.seed, batch_size=batch_size)
    samples = TrainingSamples(source, order, _crop(data, pixels), seed=config.seed, keep_bytes=data.kept_bytes)
    return samples, buckets.bad
