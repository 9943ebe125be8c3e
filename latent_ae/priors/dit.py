"""The diffusion transformer, its noise schedule, what it learns, and the stock `diffusers.DiTPipeline` it ends in.

z are scaled latents, n noise from N(0, 1) and t a place in time, of T:

    z_t = sqrt(a_t) z + sqrt(1 - a_t) n        v = sqrt(a_t) n - sqrt(1 - a_t) z        loss = mean |f(z_t, t, y) - v|^2

(Ho et al. 2020; Salimans & Ho 2022 for v.) a_T is exactly 0, so that what is drawn begins where training ended, at pure
noise (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed"); v is defined there too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.embeddings import LabelEmbedding
from torch import nn

from latent_ae.errors import UserError
from latent_ae.export.proof import ProofFailed
from latent_ae.export.source import CARD
from latent_ae.io.atomic import placed
from latent_ae.io.image import Pixels, image_grid, save_png
from latent_ae.models.loading import quiet_diffusers
from latent_ae.models.parts import encoder_identity
from latent_ae.priors.prior import SAMPLES
from latent_ae.randomness import torch_generator

NULL_CLASS = 1000
"""the label of no class: `DiTPipeline` has this number in its code"""
TIMESTEPS = 1000
_ROWS, _COLUMNS = 16, 16


def check_classes(classes: Sequence[int]) -> None:
    """Raise UserError for labels that `DiTPipeline` has no place for."""
    if classes and max(classes) >= NULL_CLASS:
        raise UserError(
            f"the latents have the label {max(classes)}: DiTPipeline knows the classes 0 to {NULL_CLASS - 1}"
        )


def build_network(
    *, channels: int, side: int, width: int, depth: int, head_width: int, patch_size: int
) -> DiTTransformer2DModel:
    """A DiT for latents [B, channels, side, side], started so that every block passes on what it is given.

    diffusers starts a DiT as any network; adaLN-Zero (Peebles & Xie 2023, section 3.2) is that the layers that scale,
    shift and gate start at zero. Labels are never dropped inside: its blocks would each drop others.
    Raises UserError if `side` cannot be cut into patches.
    """
    if side % patch_size:
        raise UserError(
            f"prior.patch_size {patch_size} does not divide the side of the latents, {side}: give a number that does"
        )
    network = DiTTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=side,
        patch_size=patch_size,
        num_attention_heads=width // head_width,
        attention_head_dim=head_width,
        num_layers=depth,
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


def denoising_loss(
    network: nn.Module,
    scheduler: DDIMScheduler,
    *,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    labels: torch.Tensor,
) -> torch.Tensor:
    """The mean squared error of v, for scaled latents and noise [B,c,h,w], timesteps and labels [B] int64."""
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    predicted = network(noisy, timestep=timesteps, class_labels=labels).sample
    loss: torch.Tensor = (predicted.float() - velocity).square().mean()
    return loss


def assemble(
    network: DiTTransformer2DModel,
    autoencoder: AutoencoderKL,
    label_names: Mapping[int, str] | None,
) -> DiTPipeline:
    """A pipeline of a network in evaluation mode; its `get_label_ids` knows the names.

    The autoencoder is moved to the network's device. The schedule is a new one: what training uses has moved its
    numbers to the device for good, and a pipeline moves only its modules.
    """
    pipeline = DiTPipeline(network, autoencoder.to(network.device), build_scheduler(), id2label=label_names)
    pipeline.register_to_config(id2label=label_names)  # or it would not be saved
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: DiTPipeline, labels: Sequence[int], *, guidance_scale: float, inference_steps: int, seed: int
) -> Pixels:
    """An image for each label, [N,H,W,C] uint8; the same for the same seed."""
    drawn = pipeline(
        class_labels=list(labels),
        guidance_scale=guidance_scale,
        num_inference_steps=inference_steps,
        generator=torch_generator(seed, "draws"),
        output_type="np",
    )
    pixels: Pixels = np.rint(drawn.images * 255).astype(np.uint8)
    return pixels


def draw_grid(
    pipeline: DiTPipeline, classes: Sequence[int], *, guidance_scale: float, inference_steps: int, seed: int
) -> Pixels:
    """A row for each of the first classes; without any, rows of no class."""
    labels = [label for label in classes[:_ROWS] or [NULL_CLASS] * 4 for _ in range(_COLUMNS)]
    # There is nothing to guide away from where all that was seen is without a class.
    scale = guidance_scale if classes else 1.0
    pixels = draw(pipeline, labels, guidance_scale=scale, inference_steps=inference_steps, seed=seed)
    return image_grid([list(pixels[first : first + _COLUMNS]) for first in range(0, len(pixels), _COLUMNS)])


def write_pipeline(pipeline: DiTPipeline, folder: Path, grid: Pixels, card: str) -> None:
    """Write the folder in place of an earlier one, once stock diffusers has loaded it and drawn the same image from it.

    Raises ProofFailed, OSError.
    """
    with placed([folder], replace=True) as beside:
        made = beside / folder.name
        pipeline.save_pretrained(made)
        save_png(made / SAMPLES, grid)
        (made / CARD).write_text(card, encoding="utf-8")
        with quiet_diffusers():
            loaded = DiTPipeline.from_pretrained(made, local_files_only=True)
        loaded.set_progress_bar_config(disable=True)
        if encoder_identity(loaded.vae) != encoder_identity(pipeline.vae):
            raise ProofFailed("the autoencoder of the pipeline that was written is another")
        first, second = (
            draw(each.to("cpu"), [NULL_CLASS], guidance_scale=1.0, inference_steps=2, seed=0)
            for each in (loaded, pipeline)
        )
        if not np.array_equal(first, second):
            raise ProofFailed("the pipeline that was written draws another image than the one in memory")


def card_text(*, name: str, data: str, autoencoder: str, identity: str, steps: int, scaling_factor: float) -> str:
    """The folder's README.md."""
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
{scaling_factor:.6g}.

The autoencoder is {autoencoder}, encoder identity `{identity}`.
"""
