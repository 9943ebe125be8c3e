"""What training a diffusion model on latents asks for."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from latent_ae.config.section import Count, Section, Share
from latent_ae.priors.settings import LatentRunConfig, LatentTrainConfig


class NetworkConfig(Section):
    """The transformer's size (Peebles & Xie 2023: DiT-S is 384 wide and 12 deep with heads of 64)."""

    width: Count = 128
    """values of a token"""
    depth: Count = 4
    """blocks"""
    head_width: Count = 32
    """values of an attention head; divides width"""
    patch_size: Count = 1
    """latent positions of a token along a side; divides the latents' side"""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.head_width:
            raise ValueError(f"network.width {self.width} must be a multiple of network.head_width {self.head_width}")
        return self


class DenoisingConfig(LatentTrainConfig):
    """The optimisation and what is written on the way."""

    label_dropout: Share = 0.1
    """share of the labels that are taken away, which is what guidance needs (Ho & Salimans 2022)"""


class SamplingConfig(Section):
    """How grids are drawn; whoever uses the pipeline chooses for himself."""

    guidance_scale: Annotated[float, Field(ge=1)] = 1.5
    """1 is none"""
    inference_steps: Count = 50
    """DDIM steps"""


class DiffusionConfig(LatentRunConfig):
    """One diffusion model."""

    RESULT: ClassVar[str] = "pipeline"
    INDEX: ClassVar[str] = "model_index.json"

    name: str = "diffusion"
    """the run's folder under output_dir"""
    network: NetworkConfig = NetworkConfig()
    train: DenoisingConfig = DenoisingConfig()
    sampling: SamplingConfig = SamplingConfig()
