"""The work of one process: its shards, one after the other."""

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from latent_ae.data import DataError
from latent_ae.data.loader import as_it_is, leave_signals_to_the_main_process
from latent_ae.device import one_thread
from latent_ae.latent_dataset.encoder import Encoder
from latent_ae.latent_dataset.making import ShardMaker
from latent_ae.latent_dataset.manifest import Manifest
from latent_ae.latent_dataset.views import Images, Views


def make_shards(
    folder: Path,
    manifest: Manifest,
    images: Images,
    encoder: Encoder,
    shards: Sequence[int],
    *,
    workers: int,
    stop: Callable[[], bool] = lambda: False,
    on_image: Callable[[], object] = lambda: None,
) -> None:
    """Make and write these shards of `folder`, in this order.

    `workers` processes load images (0: this one), which changes nothing in them. `on_image` is called after each image.
    When `stop` says so the shard at work is given up, and the call returns. Raises DataError for a label or caption of
    another kind, LatentDatasetError for an image that does not fit into memory, and OSError if a shard cannot be
    written: those before it are whole.
    """
    if not shards:
        return
    part = manifest.preprocessing
    loader: DataLoader[Any] = DataLoader(
        Views(images, channels=part.channels, resolution=part.resolution, background=part.background),
        sampler=list(chain.from_iterable(manifest.unit(number) for number in shards)),
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=leave_signals_to_the_main_process,
        generator=torch.Generator(),
    )
    views = iter(loader)
    with one_thread():
        for number in shards:
            maker = ShardMaker(encoder, batch_size=manifest.compute.batch_size, flips=part.flips)
            for index in manifest.unit(number):
                view = next(views)
                if isinstance(view, DataError):
                    raise view
                maker.add(index, view)
                on_image()
                if stop():
                    return
            maker.write(folder, manifest, number)
