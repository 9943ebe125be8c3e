"""The result: a stock `diffusers.DiTPipeline` with the autoencoder inside, and what it draws."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, DiTPipeline, DiTTransformer2DModel

from latent_ae.export.proof import ProofFailed
from latent_ae.export.source import CARD
from latent_ae.io.atomic import placed
from latent_ae.io.image import Pixels, image_grid, save_png
from latent_ae.models.loading import quiet_diffusers
from latent_ae.models.parts import encoder_identity
from latent_ae.priors.diffusion.network import NULL_CLASS, build_scheduler
from latent_ae.priors.settings import SAMPLES
from latent_ae.randomness import torch_generator

_ROWS, _COLUMNS = 16, 16


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
