"""What a run says of itself at its start."""

import math
import statistics
from contextlib import suppress

from PIL import Image
from torch import Tensor

from latent_ae.data import ImageSource, SourceParts
from latent_ae.errors import BrokenImage
from latent_ae.evaluation.metrics.baseline import LEVELS, levels_used
from latent_ae.evaluation.report_warnings import level_warnings
from latent_ae.io.coloring import has_color
from latent_ae.io.model_place import pipeline_note
from latent_ae.io.pixel_format import PixelFormat
from latent_ae.models import Autoencoder, latent_shape
from latent_ae.models.adapt import ADAPTED
from latent_ae.models.autoencoder import codebook_size
from latent_ae.models.loading import load_pixel_format
from latent_ae.training.scaling import keeps_scaling, unstated_scaling
from latent_ae.training.settings import RunConfig

LOOKED_AT = 16
"""training crops whose levels are counted"""
GREY_OF_COLOR = (
    "warning: the pictures have colours and the model sees them in grey (model.image_channels {channels}): add "
    "--model.image_channels {like}, or take a recipe for photographs, --config kl-photos"
)


def describe_run(config: RunConfig, parts: SourceParts, autoencoder: Autoencoder, pixels: PixelFormat) -> str:
    """The run in a few lines: sizes, data, and what the weight of its latents' cost means elsewhere."""
    channels, (height, width) = autoencoder.config["in_channels"], config.data.crop_size
    shape = latent_shape(autoencoder, (height, width))
    every = sum(parameter.numel() for parameter in autoencoder.parameters())
    learning = sum(parameter.numel() for parameter in autoencoder.parameters() if parameter.requires_grad)
    frozen = f" ({learning:,} of them learn)" if learning < every else ""
    lines = [
        f"{config.name}: {every:,} parameters{frozen}, {channels}x{height}x{width} -> {'x'.join(map(str, shape))} "
        "latents",
        f"data: {config.data.source}, {parts.account()}",
    ]
    if (source := config.model.init_from) is not None:
        lines += _origin(source, autoencoder, pixels)
    if not pixels.is_default:
        lines.append(f"pixels: {pixels.describe()}")
    if channels < 3 and not pixels.numbers and config.data.by_number and _is_colored(parts.train):
        lines.append(GREY_OF_COLOR.format(channels=channels, like=channels + 2))
    if config.train.keep_best is not None:
        lines += _kept_weights(config)
    if keeps_scaling(config):
        lines.append(f"latents: those of {config.model.init_from}, whose encoder is frozen; their scale is kept")
    elif (warning := unstated_scaling(config)) is not None:
        lines.append(f"warning: {warning}")
    if (conventions := config.loss.conventions(channels * height * width, math.prod(shape))) is not None:
        lines.append(conventions)
    if (codes := codebook_size(autoencoder)) is not None:
        positions = shape[1] * shape[2]
        bits = positions * math.log2(codes)
        lines.append(
            f"codebook: {config.bottleneck.kind}, {codes:,} codes of {shape[0]} channels, {positions} an image: "
            f"{bits:g} bits, {bits / (height * width):.3g} bits per pixel"
        )
    return "\n".join(lines)


def _is_colored(source: ImageSource) -> bool:
    """Whether a picture of those at the beginning, in the middle and at the end has colours."""
    for index in sorted({0, len(source) // 2, len(source) - 1}):
        with suppress(BrokenImage):
            picture = source.load(index)
            if isinstance(picture, Image.Image) and has_color(picture):
                return True
    return False


def _origin(source: str, autoencoder: Autoencoder, pixels: PixelFormat) -> list[str]:
    """Where the model lies that the run starts from, if in a pipeline, and what was adapted in it; else a warning if it
    reads pixels in another way.
    """
    lines = [] if (note := pipeline_note(source)) is None else [note]
    if (adapted := autoencoder.config.get(ADAPTED)) is not None:
        return [*lines, f"init_from {source}: {adapted}"]
    before = load_pixel_format(source, autoencoder)
    if before.is_default or before.decodes_as(pixels):
        return lines
    return [*lines, f"warning: init_from {source} reads {before.describe()}, and this run {pixels.describe()}"]


def _kept_weights(config: RunConfig) -> list[str]:
    """Which weights the result gets, and a warning where those of another loss may win."""
    train, loss, adversary = config.train, config.loss, config.adversarial
    end = "" if train.patience is None else f"; it ends after {train.patience} validations without improvement"
    every = train.evaluate_every_steps
    lines = [f"result: the weights with the best held-out {train.keep_best}, measured every {every} steps{end}"]
    first = max(1, math.ceil(train.keep_best_from_step / every)) * every
    now, at_last = ((loss.weights_at(step), loss.capacity_at(step)) for step in (first, None))
    if now != at_last or (adversary.loss != "none" and adversary.start_step >= first):
        lines.append(
            f"warning: the loss still changes after update {first}, and weights from before may be the best by "
            f"{train.keep_best}: give train.keep_best_from_step where it no longer does"
        )
    return lines


def describe_levels(crops: Tensor, pixels: PixelFormat) -> str:
    """How many levels between black and white training crops [B, C, H, W] use, and a warning if it is few."""
    levels = levels_used(crops)
    line = f"levels: the median of {len(crops)} training crops uses {statistics.median_low(levels)} of {LEVELS}"
    return "\n".join([line, *(f"warning: {warning}" for warning in level_warnings(levels, pixels))])
