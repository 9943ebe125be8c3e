"""What a kind of prior is: its settings, and the network that they build with all that differs in training it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from diffusers import ModelMixin
from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_ae.config import OptimizationConfig, Section
from latent_ae.io.image import Pixels
from latent_ae.priors.source import LatentSource

N = TypeVar("N", bound=ModelMixin)
Batch = tuple[Tensor, ...]
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
    """JSON file that diffusers knows the result by"""
    PROMISE: ClassVar[str]
    """what is true of the result that was written, for the user"""
    SCALED: ClassVar[bool]
    """whether samples are latents times the autoencoder's scaling_factor, or raw"""

    kind: str

    def check_train(self, train: OptimizationConfig) -> None:
        """Raise ValueError for settings of `train` that do not go with these."""

    def build(self, source: LatentSource, *, seed: int) -> "Prior[Any]":
        """The prior at its start. Raises UserError for latents that it does not fit."""
        raise NotImplementedError


class Prior(ABC, Generic[N]):
    """A network for the latents of a source, and what differs in training it.

    Args:
        network: at its start.
        samples: what it is shown, by the sample's number in the run: step * global batch size + its index in the global
            batch.
        source: the latents.
        seed: of the draws.
    """

    def __init__(self, network: N, samples: Dataset[Any], source: LatentSource, seed: int) -> None:
        self.network, self.samples, self.source, self.seed = network, samples, source, seed

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        """Means over a batch on the network's device: `loss`, which is minimised, and what is logged beside it.

        `network` is the one to call: as prepared for distributed training. `step` counts the updates already made.
        """

    @abstractmethod
    def draw(self, network: N) -> Pixels:
        """A grid of images that a network in evaluation mode draws."""

    @abstractmethod
    def write(self, network: N, folder: Path, *, name: str, steps: int) -> None:
        """Write the result, with SAMPLES in it, in place of an earlier one. Raises ProofFailed, OSError.

        `name` is the run's, and `steps` the number of its updates.
        """
