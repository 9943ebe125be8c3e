"""What training a hierarchical prior on latents asks for."""

from typing import ClassVar, Self

from pydantic import model_validator

from latent_ae.config.section import Count, CountOrNone, NotNegative, Positive, Section
from latent_ae.priors.settings import LatentRunConfig, LatentTrainConfig


class PriorConfig(Section):
    """The network's size."""

    width: Count = 64
    """channels of the network"""
    level_channels: Count = 8
    """channels of every level's latents"""
    levels_per_grid: Count = 1
    """levels on each of the grids 1x1, 2x2, 4x4 ... up to that of the autoencoder's latents"""


class LadderConfig(LatentTrainConfig):
    """The optimisation and what is written on the way."""

    steps: Count = 2500
    """updates of the weights"""
    learning_rate: Positive = 2e-3
    """peak learning rate of AdamW"""
    weight_decay: NotNegative = 0.01
    """AdamW's decoupled weight decay"""
    kl_warmup_steps: CountOrNone = 100
    """steps over which the weight of the levels' KL rises linearly from 0 to 1 (Sonderby et al. 2016)"""
    free_nats: NotNegative = 1.0
    """KL of a level in an image below which it is not lowered further (free bits, Kingma et al. 2016): with 0, the top
    level may go unused"""

    @model_validator(mode="after")
    def _warm_up_ends(self) -> Self:
        if self.kl_warmup_steps > self.steps:
            raise ValueError(f"train.kl_warmup_steps {self.kl_warmup_steps} is more than train.steps {self.steps}")
        return self


class HierarchyConfig(LatentRunConfig):
    """One hierarchical prior."""

    RESULT: ClassVar[str] = "prior"
    INDEX: ClassVar[str] = "config.json"

    name: str = "hierarchy"
    """the run's folder under output_dir"""
    prior: PriorConfig = PriorConfig()
    train: LadderConfig = LadderConfig()
