"""A model by name and images by their settings in, a report out: what `latent-ae evaluate` does, in one process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from latent_ae.config import DataConfig, EvaluationConfig, Section
from latent_ae.data import evaluation_batches, open_source
from latent_ae.evaluation import EvaluationReport, evaluate
from latent_ae.models import load_autoencoder
from latent_ae.perceptual import PerceptualDistance, PerceptualWeightsMissing, build_perceptual

TRAINING_ONLY = ("resolution", "crop", "scale", "flip", "color_gain", "max_bad_share")
"""fields of `data` that say how training images are cut"""


class MeasureConfig(Section):
    """Which images are measured, and how."""

    data: DataConfig = DataConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def measure(
    model_name: str, config: MeasureConfig, *, part: Literal["heldout", "train"], mode: Literal["mode", "sample"]
) -> EvaluationReport:
    """Measure a model directory or hub id on a part of a data source, on the GPU if there is one.

    Raises UserError if the model or the images cannot be had.
    """
    images = open_source(config.data)
    source = images.heldout if part == "heldout" else images.train
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model = load_autoencoder(model_name).to(device)
    perceptual, reason = metric_or_reason(config.evaluation, model.config["in_channels"])
    evaluation = config.evaluation

    def batches() -> Iterator[tuple[Tensor, Sequence[str]]]:
        for batch in evaluation_batches(
            source,
            channels=model.config["in_channels"],
            size=evaluation.size,
            background=config.data.background,
            batch_size=evaluation.batch_size,
            limit=evaluation.max_images,
            on_bad=lambda sample_id, reason: tqdm.write(f"left out: {sample_id}: {reason}"),
            workers=config.data.workers,
        ):
            yield batch.pixels, batch.sample_ids

    with tqdm(total=min(evaluation.max_images, len(source)), unit="image") as bar:
        return evaluate(
            model,
            batches(),
            data=f"{config.data.source}, {'held-out' if part == 'heldout' else 'training'} part",
            size_rule=size_rule(evaluation.size),
            perceptual=None if perceptual is None else perceptual.to(device),
            perceptual_reason=reason,
            mode=mode,
            progress=bar.update,
        )


def size_rule(size: int | None) -> str:
    """How measured images are cut, in words for the protocol."""
    if size is None:
        return "whole images at their own size"
    return f"shorter side resized to {size}, centre crop {size}x{size}"


def metric_or_reason(config: EvaluationConfig, image_channels: int) -> tuple[PerceptualDistance | None, str | None]:
    """The distance to report, or the reason why there is none: a measure may be missing, a loss term may not."""
    if config.perceptual == "none":
        return None, "not asked for (evaluation.perceptual none)"
    file = None if config.perceptual_weights_file is None else Path(config.perceptual_weights_file)
    try:
        return build_perceptual(config.perceptual, image_channels=image_channels, weights_file=file), None
    except PerceptualWeightsMissing as error:
        return None, str(error)
