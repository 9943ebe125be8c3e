"""How close two pictures are, for images of millions of pixels: in strips, so that memory does not grow with them."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from latent_ae.errors import UserError
from latent_ae.evaluation.metrics import SSIM_MINIMUM_SIDE
from latent_ae.evaluation.perceptual import PerceptualDistance, build_perceptual
from latent_ae.io.image import Pixels, to_tensor

PERCEPTUAL_PIXELS = 4 * 10**6
"""of the largest image that LPIPS is measured on: its features take about 60 bytes a pixel"""
_MARGIN = 5
"""rows that SSIM's window of 11 reaches beyond its place"""
_STRIP_PIXELS = 1 << 19
_BACKBONES = {"alex": "alexnet-owt-*.pth", "vgg": "vgg16-*.pth", "squeeze": "squeezenet1_1-*.pth"}
"""file names of torchvision's weights, the network that papers report as a metric first"""


class Perceptual:
    """LPIPS where its weights lie on this machine, or the reason why there is none."""

    def __init__(self, distance: PerceptualDistance | None, reason: str) -> None:
        self.distance = distance
        self.reason = reason

    @classmethod
    def find(cls) -> "Perceptual":
        """What torchvision's cache holds; nothing is downloaded."""
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        reasons = [f"none of {', '.join(_BACKBONES.values())} is in {folder.name}/ of torch's cache on the server"]
        for name, pattern in _BACKBONES.items():
            for file in sorted(folder.glob(pattern)):
                try:
                    return cls(build_perceptual(name, image_channels=3, weights_file=file), "")
                except UserError:
                    reasons = [f"{file.name} on the server is damaged"]
        return cls(None, reasons[0])


def measure(
    got: Pixels, wanted: Pixels, perceptual: Perceptual, check: Callable[[], None]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """PSNR in dB, SSIM and LPIPS of `got` [H,W,C] against `wanted`, and for each that is None the reason.

    `check` is called between pieces of work; what it raises ends the measuring.
    """
    metrics: dict[str, float | None] = {"PSNR": _psnr(got, wanted)}
    notes: dict[str, str] = {}
    if metrics["PSNR"] is None:
        notes["PSNR"] = "the images are the same in every pixel"
    check()
    if (similarity := _ssim(got, wanted, check)) is None:
        notes["SSIM"] = f"the image has a side of fewer than {SSIM_MINIMUM_SIDE} pixels"
    metrics["SSIM"] = similarity
    check()
    metrics["LPIPS"], reason = _lpips(got, wanted, perceptual)
    if reason:
        notes["LPIPS"] = reason
    return metrics, notes


def _psnr(got: Pixels, wanted: Pixels) -> float | None:
    total = 0  # of integers: exact, and the same for any strips
    for rows in _strips(wanted):
        difference = got[rows].astype(np.int32) - wanted[rows]
        total += int(np.square(difference).sum(dtype=np.int64))
    return 10 * math.log10(255**2 * wanted.size / total) if total else None


def _ssim(got: Pixels, wanted: Pixels, check: Callable[[], None]) -> float | None:
    """What `metrics.ssim` gives: the mean over all places of the map, whose borders are mirrored."""
    if min(wanted.shape[:2]) < SSIM_MINIMUM_SIDE:
        return None
    from torchmetrics.functional.image import structural_similarity_index_measure  # noqa: PLC0415 - takes a second

    total = 0.0
    for rows in _strips(wanted):
        check()
        around = slice(max(0, rows.start - _MARGIN), min(len(wanted), rows.stop + _MARGIN))
        a, b = (to_tensor(image[around])[None] / 2 + 0.5 for image in (got, wanted))
        _, similarity = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        inside = similarity[..., rows.start - around.start : rows.stop - around.start, :]
        total += float(inside.double().sum())
    return total / wanted.size


def _lpips(got: Pixels, wanted: Pixels, perceptual: Perceptual) -> tuple[float | None, str]:
    distance = perceptual.distance
    if distance is None:
        return None, perceptual.reason
    height, width, channels = wanted.shape
    if min(height, width) < distance.minimum_side:
        return None, f"the image has a side of fewer than {distance.minimum_side} pixels"
    if height * width > PERCEPTUAL_PIXELS:
        return None, f"not measured on more than {PERCEPTUAL_PIXELS / 1e6:g} million pixels"
    repeats = 3 // channels
    pair = [to_tensor(pixels.repeat(repeats, axis=2))[None] for pixels in (got, wanted)]
    with torch.inference_mode():
        return float(distance(*pair)), ""


def _strips(image: Pixels) -> list[slice]:
    """Rows, a few at a time, that cover an image."""
    height, width = image.shape[:2]
    step = max(1, _STRIP_PIXELS // width)
    return [slice(first, min(first + step, height)) for first in range(0, height, step)]
