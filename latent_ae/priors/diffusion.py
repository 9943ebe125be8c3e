"""A class-conditional diffusion transformer on latents: the proof that an autoencoder's latents diffuse well.

z are scaled latents, n noise from N(0, 1) and t a place in time, of T:

    z_t = sqrt(a_t) z + sqrt(1 - a_t) n        v = sqrt(a_t) n - sqrt(1 - a_t) z        loss = mean |f(z_t, t, y) - v|^2

(Ho et al. 2020; Salimans & Ho 2022 for v.) a_T is exactly 0, so that what is drawn begins where training ended, at pure
noise (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed"); v is defined there too. The
result is a stock diffusers.DiTPipeline with the autoencoder inside.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
from diffusers import DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding
from pydantic import Field, model_validator
from torch import Tensor, nn

from latent_ae.config.section import Count, Share
from latent_ae.errors import UserError
from latent_ae.export.proof import ProofFailed
from latent_ae.inference.pipeline_draws import GUIDANCE_SCALE, INFERENCE_STEPS, NULL_CLASS, draw
from latent_ae.io.image import Pixels, image_grid
from latent_ae.io.pixel_format import FILE as PIXEL_FORMAT
from latent_ae.models.loading import quiet_diffusers
from latent_ae.models.parts import encoder_identity
from latent_ae.priors.prior import SAMPLES, Batch, Prior, PriorConfig, Samples
from latent_ae.priors.source import LatentSource

TIMESTEPS = 1000
_ROWS, _COLUMNS = 16, 16


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
    guidance_scale: Annotated[float, Field(ge=1)] = GUIDANCE_SCALE
    """of the grids that are drawn; 1 is none"""
    inference_steps: Count = INFERENCE_STEPS
    """DDIM steps of the grids that are drawn"""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.head_width:
            raise ValueError(f"prior.width {self.width} must be a multiple of prior.head_width {self.head_width}")
        return self

    def build(self, source: LatentSource, *, seed: int) -> "Diffusion":
        """A transformer for the latents' size. Raises UserError for labels that `DiTPipeline` has no place for."""
        if source.classes and max(source.classes) >= NULL_CLASS:
            raise UserError(
                f"the latents have the label {max(source.classes)}: DiTPipeline knows the classes 0 to {NULL_CLASS - 1}"
            )
        return Diffusion(build_network(self, channels=source.channels, side=source.side), source, seed, self)


def build_network(settings: DiffusionConfig, *, channels: int, side: int) -> DiTTransformer2DModel:
    """A DiT for latents [B, channels, side, side], started so that every block passes on what it is given.

    diffusers starts a DiT as any network; adaLN-Zero (Peebles & Xie 2023, section 3.2) is that the layers that scale,
    shift and gate start at zero. Labels are never dropped inside: its blocks would each drop others.
    Raises UserError if `side` cannot be cut into patches.
    """
    if side % settings.patch_size:
        raise UserError(
            f"prior.patch_size {settings.patch_size} does not divide the side of the latents, {side}: give a number "
            "that does"
        )
    network = DiTTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=side,
        patch_size=settings.patch_size,
        num_attention_heads=settings.width // settings.head_width,
        attention_head_dim=settings.head_width,
        num_layers=settings.depth,
        num_embeds_ada_norm=NULL_CLASS,
    )
    for block in network.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    for layer in (network.proj_out_1, network.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for module in network.modules():
        if isinstance(module, LabelEmbedding):
            nn.init.normal_(module.embedding_table.weight, std=0.02)
            module.dropout_prob = 0.0
    return network


def build_scheduler() -> DDIMScheduler:
    """Noise in training, and the steps in drawing."""
    return DDIMScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


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


def noised(
    row: dict[str, Tensor], generator: torch.Generator, *, scaling_factor: float, label_dropout: float
) -> Sample:
    """A row's latents with noise, a timestep, and its label, which a share of samples goes without.

    Latents are multiplied by `scaling_factor`, and by nothing else: `DiTPipeline` only divides by it, and has no shift.
    """
    latents = row["latents"] * scaling_factor
    noise = torch.randn(latents.shape, generator=generator)
    timestep = torch.randint(TIMESTEPS, (), generator=generator)
    dropped = torch.rand((), generator=generator) < label_dropout
    label = torch.where(dropped | (row["label"] < 0), NULL_CLASS, row["label"])
    return Sample(latents, noise, timestep, label)


class Diffusion(Prior[DiTTransformer2DModel]):
    """A transformer that learns to take noise from latents."""

    def __init__(
        self, network: DiTTransformer2DModel, source: LatentSource, seed: int, settings: DiffusionConfig
    ) -> None:
        make = partial(noised, scaling_factor=source.scaling_factor, label_dropout=settings.label_dropout)
        super().__init__(network, Samples(source.rows, make, kind="denoising", seed=seed), source, seed)
        self._settings, self.scheduler = settings, build_scheduler()

    def loss(self, network: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:  # noqa: ARG002  # as any prior's
        """The mean squared error of v."""
        latents, noise, timesteps, labels = Sample(*batch)
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        velocity = self.scheduler.get_velocity(latents, noise, timesteps)
        predicted = network(noisy, timestep=timesteps, class_labels=labels).sample
        return {"loss": (predicted.float() - velocity).square().mean()}

    def pipeline(self, network: DiTTransformer2DModel) -> DiTPipeline:
        """A pipeline of a network in evaluation mode; its `get_label_ids` knows the names.

        The autoencoder is moved to the network's device. The schedule is a new one: what training uses has moved its
        numbers to the device for good, and a pipeline moves only its modules.
        """
        names, autoencoder = self.source.label_names, self.source.autoencoder.to(network.device)
        pipeline = DiTPipeline(network, autoencoder, build_scheduler(), id2label=names)
        pipeline.register_to_config(id2label=names)  # or it would not be saved
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def draw(self, network: DiTTransformer2DModel) -> Pixels:
        """A row for each of the first classes; without any, rows of no class."""
        classes = self.source.classes
        labels = [label for label in classes[:_ROWS] or [NULL_CLASS] * 4 for _ in range(_COLUMNS)]
        drawn = draw(
            self.pipeline(network),
            labels,
            # There is nothing to guide away from where all that was seen is without a class.
            guidance_scale=self._settings.guidance_scale if classes else 1.0,
            inference_steps=self._settings.inference_steps,
            seed=self.seed,
        )
        images = self.source.pixels.previews(torch.from_numpy(drawn).movedim(-1, 1) / 127.5 - 1)
        return image_grid([images[first : first + _COLUMNS] for first in range(0, len(images), _COLUMNS)])

    def save(self, network: DiTTransformer2DModel, folder: Path) -> None:
        """Write the pipeline, which stock diffusers must load and draw the same image from."""
        pipeline = self.pipeline(network)
        pipeline.save_pretrained(folder)
        if not self.source.pixels.is_default:
            (folder / "vae" / PIXEL_FORMAT).write_text(self.source.pixels.to_json() + "\n", encoding="utf-8")
        with quiet_diffusers():
            loaded = DiTPipeline.from_pretrained(folder, local_files_only=True)
        loaded.set_progress_bar_config(disable=True)
        if encoder_identity(loaded.vae) != encoder_identity(pipeline.vae):
            raise ProofFailed("the autoencoder of the pipeline that was written is another")
        first, second = (
            draw(each.to("cpu"), [NULL_CLASS], guidance_scale=1.0, inference_steps=2, seed=0)
            for each in (loaded, pipeline)
        )
        if not np.array_equal(first, second):
            raise ProofFailed("the pipeline that was written draws another image than the one in memory")

    def card(self, network: DiTTransformer2DModel, *, name: str, steps: int) -> str:  # noqa: ARG002  # as any prior's
        """How to draw, and from what it was trained."""
        source, data = self.source, self.source.data_name
        return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [class-conditional, latent-diffusion, DiT]
---

# {name}

A class-conditional diffusion transformer on the latents of {data}, {steps} updates, with the autoencoder that made
them.

![Draws, a row for each class]({SAMPLES})

```python
from diffusers import DiTPipeline

pipeline = DiTPipeline.from_pretrained("{name}")
image = pipeline(class_labels=[3], guidance_scale=1.5).images[0]
```

The class {NULL_CLASS} is no class. v-prediction on a cosine schedule that ends in pure noise; latents times
{source.scaling_factor:.6g}.

The autoencoder is {source.autoencoder_name}, encoder identity `{source.identity}`.
"""
