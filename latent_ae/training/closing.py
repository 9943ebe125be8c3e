"""What a run says at its end, for people: how good the result is, what would help, and how to see it."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latent_ae.evaluation.metrics.quality import psnr
from latent_ae.evaluation.report import EvaluationReport
from latent_ae.models import Autoencoder, latent_shape
from latent_ae.models.autoencoder import codebook_size
from latent_ae.models.encode_decode import reconstruct

COMPARED_IMAGES = 8
"""held-out images that are compared with Lanczos"""
_FEW_IMAGES = 100
_WORDS = (
    (20.0, "only large shapes and colours are kept"),
    (25.0, "much detail is lost"),
    (30.0, "recognisable, and fine detail is lost"),
    (35.0, "close to the originals, differences show side by side"),
    (math.inf, "hardly to be told from the originals"),
)
"""(PSNR in dB below which it holds, what it looks like)"""


def closing(
    report: EvaluationReport, model: Autoencoder, images: Sequence[Tensor], *, training_images: int | None, folder: Path
) -> str:
    """One sentence or two on the result.

    Args:
        report: of the held-out images.
        model: the result.
        images: a few held-out images [C,H,W] in [-1, 1].
        training_images: how many there were; None if that is not known.
        folder: of the model.
    """
    quality, help_with = report.metrics["psnr"].value, ""
    see = f"the model is in {folder}; to see it: latent-ae serve --model {folder}"
    if quality is None:
        return see
    words = next(text for limit, text in _WORDS if quality < limit)
    gain = lanczos_gain(model, images)
    compared = (
        ""
        if gain is None
        else (f", {abs(gain):.1f} dB {'above' if gain >= 0 else 'below'} scaling to as many numbers and back (Lanczos)")
    )
    if quality < _WORDS[-2][0]:
        few = training_images is not None and training_images < _FEW_IMAGES
        help_with = f"More images than {training_images} would help" if few else "More --train.steps would help"
        if gain is not None and gain > 1 and not few:
            help_with += ", then more --model.latent_channels"
        help_with += "; "
    return f"held-out images come back at {quality:.1f} dB: {words}{compared}. {help_with}{see}"


@torch.no_grad()
def lanczos_gain(model: Autoencoder, images: Sequence[Tensor]) -> float | None:
    """Mean PSNR in dB that reconstructions have above images scaled down to as many stored values, and up again.

    A code counts as its bits in values of 8 bits. None where the latents have as many values as the image.
    """
    device = next(model.parameters()).device
    gains = []
    for image in images[:COMPARED_IMAGES]:
        channels, h, w = latent_shape(model, (image.shape[1], image.shape[2]))
        codes = codebook_size(model)
        values = h * w * (channels if codes is None else math.log2(codes) / 8)
        if values >= image.numel():
            return None
        ours = psnr(reconstruct(model, image[None].to(device)).cpu(), image[None])
        gains.append(float(ours - psnr(scaled_and_back(image, values)[None], image[None])))
    finite = [gain for gain in gains if math.isfinite(gain)]  # an image of one colour is exact
    return sum(finite) / len(finite) if finite else None


def scaled_and_back(image: Tensor, values: float) -> Tensor:
    """An image [C,H,W] in [-1, 1] by way of one of the same shape with so many values, both ways by Lanczos."""
    height, width = image.shape[1:]
    shrink = math.sqrt(values / image.numel())
    small = max(1, round(width * shrink)), max(1, round(height * shrink))
    planes = [Image.fromarray(plane) for plane in image.float().cpu().numpy()]
    resized = [
        plane.resize(small, Image.Resampling.LANCZOS).resize((width, height), Image.Resampling.LANCZOS)
        for plane in planes
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in resized])).clamp(-1, 1)
