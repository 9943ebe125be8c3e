"""Rows of latents by the sample's number in the run, and the loader of micro-batches."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from latent_ae.data.loader import data_loader
from latent_ae.data.order.numbers import index_of, rank_numbers
from latent_ae.errors import UserError
from latent_ae.latent_dataset import LatentDataset

S = TypeVar("S", bound=tuple[Tensor, ...])


def numbered_row(rows: LatentDataset, seed: int, number: int) -> dict[str, Tensor]:
    """The row that a sample shows, drawn anew in every epoch; each epoch shows every row once."""
    rows.set_epoch(number // len(rows))  # each time: workers go from an epoch to the next by themselves
    return rows[index_of(seed, number, len(rows))]


class _MicroBatches(Dataset[Any]):
    """A rank's micro-batches: number m of step s is s * accumulation + m.

    An error is handed on: raised in a worker, it would be a stack trace.
    """

    def __init__(self, samples: Dataset[S], pieces: Callable[[int], list[range]], accumulation: int) -> None:
        self._samples = samples
        self._pieces = pieces
        self._accumulation = accumulation

    def __getitem__(self, number: int) -> Any:
        step, micro_batch = divmod(number, self._accumulation)
        try:
            return default_collate([self._samples[n] for n in self._pieces(step)[micro_batch]])
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
    indices = range(first_step * accumulation, steps * accumulation)
    loader = data_loader(_MicroBatches(samples, pieces, accumulation), indices, workers=workers, pin_memory=pin_memory)
    made = iter(loader)
    while batches := list(islice(made, accumulation)):
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
        yield batches
