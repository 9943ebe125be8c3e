"""What a hierarchical prior is shown: a pure function of the seed and the sample's number in the run."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from latent_ae.latent_dataset import LatentDataset
from latent_ae.priors.samples import numbered_row
from latent_ae.randomness import torch_generator


class Sample(NamedTuple):
    """One, or with a first axis a batch."""

    latents: Tensor
    """[c,h,w] float32, raw"""
    noise: Tensor
    """[noise_values] float32 from N(0, 1), for the levels"""


class Samples(Dataset[Sample]):
    """By the sample's number in the run: step * global batch size + its index in the global batch."""

    def __init__(self, rows: LatentDataset, *, noise_values: int, seed: int) -> None:
        self._rows, self._noise_values, self._seed = rows, noise_values, seed

    def __getitem__(self, number: int) -> Sample:
        latents = numbered_row(self._rows, self._seed, number)["latents"]
        generator = torch_generator(self._seed, "hierarchy", number)
        return Sample(latents, torch.randn(self._noise_values, generator=generator))
