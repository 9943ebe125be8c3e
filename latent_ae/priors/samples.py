"""Rows of latents by the sample's number in the run, and the loader of micro-batches."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from latent_ae.data.loader import Numbers, as_it_is, leave_signals_to_the_main_process
from latent_ae.data.order.numbers import index_of, rank_numbers
from latent_ae.errors import UserError
from latent_ae.latent_dataset import LatentDataset

S = TypeVar("S", bound=tuple[Tensor, ...])


def numbered_row(rows: LatentDataset, seed: int, number: int) -> dict[str, Tensor]:
    """The row that a sample shows, drawn anew in every epoch; each epoch shows every row once."""
    rows.set_epoch(number // len(rows))  # each time: workers go from an epoch to the next by themselves
    return rows[index_of(seed, number, len(rows))]


class _MicroBatches(Dataset[Any]):
    """Micro-batches by their number range. An error is handed on: raised in a worker, it would be a stack trace."""

    def __init__(self, samples: Dataset[S]) -> None:
        self._samples = samples

    def __getitem__(self, numbers: range) -> Any:
        try:
            return default_collate([self._samples[number] for number in numbers])
        except UserError as error:
            return error


def updates(
    samples: Dataset[S],
    *,
    first_step: int,
    steps: int,
    batch_size: int,
    accumulation: int,
    workers: int,
    rank: int,
    world_size: int,
    pin_memory: bool = False,
) -> Iterator[list[S]]:
    """The micro-batches of this process for each update from `first_step` on.

    `samples` are by their number in the run: step * global batch size + the index in the global batch.

    Raises DataError if the global batch cannot be cut into equal pieces, LatentDatasetError for a shard that cannot be
    read.
    """
    pieces = partial(rank_numbers, batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size)
    loader: DataLoader[Any] = DataLoader(
        _MicroBatches(samples),
        sampler=Numbers(pieces, range(first_step, steps)),
        batch_size=None,
        num_workers=workers,
        collate_fn=as_it_is,
        worker_init_fn=leave_signals_to_the_main_process,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or else the loader would draw its seed from the process's random stream
    )
    made = iter(loader)
    while batches := list(islice(made, accumulation)):
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
        yield batches
