"""What a kind of prior is: its settings, and the network that they build with all that differs in training it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_ae.config import OptimizationConfig, Section
from latent_ae.export.source import CARD
from latent_ae.io.atomic import placed
from latent_ae.io.image import Pixels, save_png
from latent_ae.latent_dataset import LatentDataset
from latent_ae.priors.source import LatentSource, numbered_row
from latent_ae.randomness import torch_generator

N = TypeVar("N", bound=ModelMixin)
Batch = tuple[Tensor, ...]
MakeSample = Callable[[dict[str, Tensor], torch.Generator], Batch]
"""What a network is shown of a row of a `LatentDataset`, and of chance. Picklable."""
SAMPLES = "samples.png"
"""a grid of draws, in the folder of every result"""


class PriorConfig(Section):
    """The settings of a kind of prior. A kind adds `kind`, a Literal of its name."""

    SUMMARY: ClassVar[str]
    """what it is, for --help"""
    TRAIN: ClassVar[Mapping[str, object]] = {}
    """its own defaults of `train`"""
    FREE_TO_CHANGE: ClassVar[tuple[str, ...]] = ()
    """its settings that do not change which network is trained"""
    MOVED: ClassVar[tuple[str, ...]] = ()
    """sections, and settings of `train`, where earlier versions saved its settings"""
    RESULT: ClassVar[str]
    """folder of the result in that of the run"""
    INDEX: ClassVar[str]
    """JSON file that the result's library knows it by"""
    PROMISE: ClassVar[str]
    """what is true of the result that was written, for the user"""
    SCALED: ClassVar[bool]
    """whether samples are latents times the autoencoder's scaling_factor, or raw"""
    CODES: ClassVar[bool] = False
    """whether it is of the codes of a VQModel, or of the latents of an AutoencoderKL"""

    kind: str

    def check_train(self, train: OptimizationConfig) -> None:
        """Raise ValueError for settings of `train` that do not go with these."""

    def build(self, source: LatentSource, *, seed: int) -> "Prior[Any]":
        """The prior at its start. Raises UserError for latents that it does not fit."""
        raise NotImplementedError


class Samples(Dataset[Batch]):
    """By the sample's number in the run, step * global batch size + its index in the global batch: a pure function of
    the seed and the number. `kind` keeps the chance of one kind of prior apart from that of another.
    """

    def __init__(self, rows: LatentDataset, make: MakeSample, *, kind: str, seed: int) -> None:
        self._rows, self._make, self._kind, self._seed = rows, make, kind, seed

    def __getitem__(self, number: int) -> Batch:
        row = numbered_row(self._rows, self._seed, number)
        return self._make(row, torch_generator(self._seed, self._kind, number))


class Prior(ABC, Generic[N]):
    """A network for the latents of a source, and what differs in training it.

    Args:
        network: at its start.
        samples: what it is shown.
        source: the latents.
        seed: of the draws.
    """

    def __init__(self, network: N, samples: Dataset[Any], source: LatentSource, seed: int) -> None:
        self.network, self.samples, self.source, self.seed = network, samples, source, seed

    @property
    def untrained(self) -> Callable[[], N] | None:
        """Makes another network of the same config; None: as diffusers does."""
        return None

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Means over a batch on the network's device: `loss`, which is minimised, and what is logged beside it.

        `network` is the one to call: as prepared for distributed training. `step` counts the updates already made.
        """

    @abstractmethod
    def draw(self, network: N) -> Pixels:
        """A grid of images that a network in evaluation mode draws."""

    def pictures(self, network: N) -> dict[str, Pixels]:
        """The pictures in the result's folder, by name, SAMPLES among them."""
        return {SAMPLES: self.draw(network)}

    @abstractmethod
    def card(self, network: N, *, name: str, steps: int) -> str:
        """README.md of the result, of the run `name` after `steps` updates."""

    @abstractmethod
    def save(self, network: N, folder: Path) -> None:
        """Write what its library loads into a folder, and load it again. Raises ProofFailed if another thing comes
        back, OSError.
        """

    def write(self, network: N, folder: Path, *, name: str, steps: int) -> None:
        """Write the result in place of an earlier one, or nothing. Raises ProofFailed, OSError."""
        with placed([folder], replace=True) as beside:
            made = beside / folder.name
            made.mkdir()
            self.save(network, made)
            for file, picture in self.pictures(network).items():
                save_png(made / file, picture)
            (made / CARD).write_text(self.card(network, name=name, steps=steps), encoding="utf-8")
