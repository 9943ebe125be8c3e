"""Images that a diffusers pipeline draws with its own diffusion model, as `DiTPipeline`s do."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTPipeline

from latent_ae.device import best_device
from latent_ae.errors import ModelError, one_line
from latent_ae.io.image import Pixels
from latent_ae.io.pixel_format import read_pixel_format
from latent_ae.models.loading import quiet_diffusers
from latent_ae.randomness import torch_generator

NULL_CLASS = 1000
"""the label of no class: `DiTPipeline` has this number in its code"""
GUIDANCE_SCALE, INFERENCE_STEPS = 1.5, 50
"""of draws where nothing else is asked for"""


def draws_of_pipeline(folder: Path, count: int, *, seed: int) -> tuple[list[Pixels], str]:
    """`count` images of a `DiTPipeline` in a folder, evenly of its classes, as previews, and how they were drawn.

    Raises ModelError if it cannot be loaded, UserError for pixels of which nothing is known.
    """
    try:
        with quiet_diffusers():
            pipeline = DiTPipeline.from_pretrained(folder, local_files_only=True).to(best_device())
    except (OSError, ValueError, RuntimeError, TypeError, LookupError) as error:
        raise ModelError(f"cannot load the DiTPipeline of {folder}: {one_line(error)}") from error
    pipeline.set_progress_bar_config(disable=None)  # none where stderr is no terminal
    names: dict[int, str] = {number: name for name, number in pipeline.labels.items()}
    labels = _evenly(sorted(names), count) if names else [NULL_CLASS] * count
    scale = GUIDANCE_SCALE if names else 1.0  # there is nothing to guide away from where there are no classes
    drawn = draw(pipeline, labels, guidance_scale=scale, inference_steps=INFERENCE_STEPS, seed=seed)
    pixels = read_pixel_format(folder / "vae", int(pipeline.vae.config["in_channels"]))
    classes = f"of {len(set(labels))} classes, guidance {scale:g}" if names else "of no class"
    images = list(pixels.previews(torch.from_numpy(drawn).movedim(-1, 1) / 127.5 - 1))
    return images, f"drawn by its {type(pipeline.transformer).__name__}, {INFERENCE_STEPS} steps, {classes}"


def draw(
    pipeline: DiTPipeline, labels: Sequence[int], *, guidance_scale: float, inference_steps: int, seed: int
) -> Pixels:
    """For each label an image [N,H,W,C] of uint8 shares of the range of values; the same for the same seed."""
    drawn = pipeline(
        class_labels=list(labels),
        guidance_scale=guidance_scale,
        num_inference_steps=inference_steps,
        generator=torch_generator(seed, "draws"),
        output_type="np",
    )
    pixels: Pixels = np.rint(drawn.images * 255).astype(np.uint8)
    return pixels


def _evenly(classes: Sequence[int], count: int) -> list[int]:
    """So many of the classes, in order: each in turn, or every few of them where they are more."""
    stride = max(1, len(classes) // count)
    return [classes[(number * stride) % len(classes)] for number in range(count)]
