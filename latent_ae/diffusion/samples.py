"""What the network is shown: a pure function of the seed and the sample's number in the run."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from latent_ae.data.loader import Numbers, as_it_is, leave_signals_to_the_main_process
from latent_ae.data.order import index_of, rank_numbers
from latent_ae.diffusion.network import NULL_CLASS, TIMESTEPS
from latent_ae.errors import UserError
from latent_ae.latent_dataset import LatentDataset
from latent_ae.randomness import torch_generator


class Sample(NamedTuple):
    """One, or with a first axis a batch."""

    latents: Tensor
    """[c,h,w] float32, scaled"""
    noise: Tensor
    """[c,h,w] float32 from N(0, 1)"""
    timestep: Tensor
    """int64, 0 to TIMESTEPS - 1"""
    label: Tensor
    """int64, NULL_CLASS where there is none"""


class Samples(Dataset[Sample]):
    """By the sample's number in the run: step * global batch size + its index in the global batch.

    Args:
        rows: raw latents, all of one shape.
        scaling_factor: they are multiplied by it, and by nothing else: `DiTPipeline` only divides by it, and has no
            shift.
        label_dropout: share of labels that are taken away.
        seed: of the order, the noise, the timesteps and the dropped labels.
    """

    def __init__(self, rows: LatentDataset, *, scaling_factor: float, label_dropout: float, seed: int) -> None:
        self._rows = rows
        self._scaling_factor = scaling_factor
        self._label_dropout = label_dropout
        self._seed = seed

    def __getitem__(self, number: int) -> Sample:
        self._rows.set_epoch(number // len(self._rows))  # each time: workers go from an epoch to the next by themselves
        row = self._rows[index_of(self._seed, number, len(self._rows))]
        latents = row["latents"] * self._scaling_factor
        generator = torch_generator(self._seed, "denoising", number)
        noise = torch.randn(latents.shape, generator=generator)
        timestep = torch.randint(TIMESTEPS, (), generator=generator)
        dropped = torch.rand((), generator=generator) < self._label_dropout
        label = torch.where(dropped | (row["label"] < 0), NULL_CLASS, row["label"])
        return Sample(latents, noise, timestep, label)


class _MicroBatches(Dataset[Sample | UserError]):
    """Micro-batches by their number range. An error is handed on: raised in a worker, it would be a stack trace."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, numbers: range) -> Sample | UserError:
        try:
            batch: Sample = default_collate([self._samples[number] for number in numbers])
        except UserError as error:
            return error
        return batch


def updates(
    samples: Samples,
    *,
    first_step: int,
    steps: int,
    batch_size: int,
    accumulation: int,
    workers: int,
    rank: int,
    world_size: int,
    pin_memory: bool = False,
) -> Iterator[list[Sample]]:
    """The micro-batches of this process for each update from `first_step` on.

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
