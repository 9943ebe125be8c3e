"""A class-conditional diffusion model on latents: the proof that an autoencoder's latents diffuse well.

    latents -> noise at a place in time -> transformer -> v -> mean squared error

The result is a stock diffusers.DiTPipeline with the autoencoder inside. What it computes is in `dit`.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import torch
from diffusers import DiTTransformer2DModel
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.data import Dataset

from latent_ae.config.section import Count, Share
from latent_ae.io.image import Pixels
from latent_ae.latent_dataset import LatentDataset
from latent_ae.priors.dit import (
    NULL_CLASS,
    TIMESTEPS,
    assemble,
    build_network,
    build_scheduler,
    card_text,
    check_classes,
    denoising_loss,
    draw_grid,
    write_pipeline,
)
from latent_ae.priors.prior import Batch, Prior, PriorConfig
from latent_ae.priors.source import LatentSource, numbered_row
from latent_ae.randomness import torch_generator


class DiffusionConfig(PriorConfig):
    """The transformer's size (Peebles & Xie 2023: DiT-S is 384 wide and 12 deep with heads of 64), labels and draws."""

    SUMMARY: ClassVar[str] = "a class-conditional diffusion transformer, which ends in a stock pipeline"
    FREE_TO_CHANGE: ClassVar[tuple[str, ...]] = ("prior.guidance_scale", "prior.inference_steps")
    MOVED: ClassVar[tuple[str, ...]] = ("network", "sampling", "train.label_dropout")
    RESULT: ClassVar[str] = "pipeline"
    INDEX: ClassVar[str] = "model_index.json"
    PROMISE: ClassVar[str] = "stock diffusers loads it and draws the same images"
    SCALED: ClassVar[bool] = True

    kind: Literal["diffusion"] = "diffusion"
    width: Count = 128
    """values of a token"""
    depth: Count = 4
    """blocks"""
    head_width: Count = 32
    """values of an attention head; divides width"""
    patch_size: Count = 1
    """latent positions of a token along a side; divides the latents' side"""
    label_dropout: Share = 0.1
    """share of the labels that are taken away, which is what guidance needs (Ho & Salimans 2022)"""
    guidance_scale: Annotated[float, Field(ge=1)] = 1.5
    """of the grids that are drawn; 1 is none"""
    inference_steps: Count = 50
    """DDIM steps of the grids that are drawn"""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.head_width:
            raise ValueError(f"prior.width {self.width} must be a multiple of prior.head_width {self.head_width}")
        return self

    def build(self, source: LatentSource, *, seed: int) -> "Diffusion":
        """A transformer for the latents' size."""
        check_classes(source.classes)
        network = build_network(
            channels=source.channels,
            side=source.side,
            width=self.width,
            depth=self.depth,
            head_width=self.head_width,
            patch_size=self.patch_size,
        )
        return Diffusion(network, source, seed, self)


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
    """By the sample's number in the run, a pure function of the seed and the number.

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


class Diffusion(Prior[DiTTransformer2DModel]):
    """A transformer that learns to take noise from latents."""

    def __init__(
        self, network: DiTTransformer2DModel, source: LatentSource, seed: int, settings: DiffusionConfig
    ) -> None:
        scaling_factor, label_dropout = source.scaling_factor, settings.label_dropout
        samples = Samples(source.rows, scaling_factor=scaling_factor, label_dropout=label_dropout, seed=seed)
        super().__init__(network, samples, source, seed)
        self._settings, self.scheduler = settings, build_scheduler()

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002  # as any prior's
        """The mean squared error of v."""
        latents, noise, timesteps, labels = Sample(*batch)
        loss = denoising_loss(network, self.scheduler, latents=latents, noise=noise, timesteps=timesteps, labels=labels)
        return {"loss": loss}

    def draw(self, network: DiTTransformer2DModel) -> Pixels:
        """A grid of draws, a row for each class."""
        settings, source = self._settings, self.source
        return draw_grid(
            assemble(network, source.autoencoder, source.label_names),
            source.classes,
            guidance_scale=settings.guidance_scale,
            inference_steps=settings.inference_steps,
            seed=self.seed,
        )

    def write(self, network: DiTTransformer2DModel, folder: Path, *, name: str, steps: int) -> None:
        """Write the pipeline, with its card and draws."""
        source = self.source
        card = card_text(
            name=name,
            data=source.data_name,
            autoencoder=source.autoencoder_name,
            identity=source.identity,
            steps=steps,
            scaling_factor=source.scaling_factor,
        )
        pipeline = assemble(network, source.autoencoder, source.label_names)
        write_pipeline(pipeline, folder, self.draw(network), card)
