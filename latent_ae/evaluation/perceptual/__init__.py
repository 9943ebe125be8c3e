"""Perceptual distances between images: a loss term and a metric, from one table."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from latent_ae.errors import UserError
from latent_ae.evaluation.perceptual.distance import PerceptualDistance
from latent_ae.evaluation.perceptual.learned import LearnedPerceptual, PerceptualWeightsMissing, backbone_file
from latent_ae.evaluation.perceptual.random_features import RandomFeatures
from latent_ae.evaluation.view import View
from latent_ae.io.image import Color
from latent_ae.io.pixel_format import PixelFormat

__all__ = [
    "PERCEPTUAL",
    "PerceptualDistance",
    "PerceptualWeightsMissing",
    "backbone_file",
    "build_perceptual",
    "distance_of",
]

PERCEPTUAL: dict[str, Callable[..., PerceptualDistance]] = {
    "random_features": RandomFeatures,
    "vgg": partial(LearnedPerceptual, "vgg"),
    "alex": partial(LearnedPerceptual, "alex"),
    "squeeze": partial(LearnedPerceptual, "squeeze"),
}


def build_perceptual(name: str, *, image_channels: int, weights_file: Path | None = None) -> PerceptualDistance:
    """The distance called `name` for images of `image_channels` (1 or 3) colour channels.

    LPIPS takes its backbone from `weights_file` (torchvision's state dict, .pth or .safetensors), else torchvision's
    cache, else its download. Raises PerceptualWeightsMissing if there is none, UserError for a wrong file or name.
    """
    if name not in PERCEPTUAL:
        raise UserError(f"unknown perceptual distance {name!r}: choose from {', '.join(PERCEPTUAL)}")
    return PERCEPTUAL[name](image_channels=image_channels, weights_file=weights_file)


def distance_of(
    name: str, pixels: PixelFormat, *, background: Color, weights_file: str | None, setting: str
) -> PerceptualDistance:
    """The distance called `name`, in `setting`, for images of any channels, of which it sees those that are shown.

    Raises UserError where these are not chosen, and as `build_perceptual`.
    """
    view = View.chosen(pixels, background, f"{setting} {name}")
    file = None if weights_file is None else Path(weights_file)
    return build_perceptual(name, image_channels=view.channels, weights_file=file).seeing(view)
