"""What the network is shown: a pure function of the seed and the sample's number in the run."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latent_ae.latent_dataset import LatentDataset
from latent_ae.priors.diffusion.network import NULL_CLASS, TIMESTEPS
from latent_ae.priors.samples import numbered_row
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
        row = numbered_row(self._rows, self._seed, number)
        latents = row["latents"] * self._scaling_factor
        generator = torch_generator(self._seed, "denoising", number)
        noise = torch.randn(latents.shape, generator=generator)
        timestep = torch.randint(TIMESTEPS, (), generator=generator)
        dropped = torch.rand((), generator=generator) < self._label_dropout
        label = torch.where(dropped | (row["label"] < 0), NULL_CLASS, row["label"])
        return Sample(latents, noise, timestep, label)
