"""Which autoencoder, with which bottleneck and loss: what a result, or a checkpoint's export, follows from."""

from typing import Self

from pydantic import Field, model_validator

from latent_ae.config import LossConfig, ModelConfig, Section
from latent_ae.models.bottlenecks import AnyBottleneck, BottleneckLoss
from latent_ae.models.bottlenecks.kl import KLConfig


class AutoencoderConfig(Section):
    """An autoencoder and what it is trained for."""

    model: ModelConfig = ModelConfig()
    bottleneck: AnyBottleneck = KLConfig()
    loss: BottleneckLoss = Field(LossConfig(), validate_default=True)

    @model_validator(mode="after")
    def _bottleneck_fits(self) -> Self:
        self.bottleneck.check_model(self.model)
        return self
