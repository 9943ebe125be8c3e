"""How close two images are, in strips so that memory does not grow with them; and JPEG and WebP as baselines."""

import io
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from latent_ae.errors import UserError
from latent_ae.evaluation.metrics.quality import SSIM_MINIMUM_SIDE
from latent_ae.evaluation.perceptual import PerceptualDistance, backbone_file, build_perceptual
from latent_ae.io.image import Pixels, to_pil, to_uint8
from latent_ae.io.pixel_format import Array, PixelFormat
from latent_ae.service.errors import BadRequest
from latent_ae.service.results import Baseline, Size

PERCEPTUAL_PIXELS = 4 * 10**6
"""of the largest image that LPIPS is measured on: its features take about 60 bytes a pixel"""
_MARGIN = 5
"""rows that SSIM's window of 11 reaches beyond its place"""
_STRIP_PIXELS = 1 << 19
_SEARCH_SHARE = 0.8
"""of the time that a baseline takes; the rest is measuring it"""
_BACKBONES = ("alex", "vgg", "squeeze")
"""of LPIPS, the network that papers report as a metric first"""
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WebP": {"method": 4}}
_QUALITIES = {"JPEG": (1, 95), "WebP": (0, 100)}
"""lowest and highest; above 95 a JPEG grows without looking better"""
_MAX_SIDE = {"JPEG": 65_500, "WebP": 16_383}
"""in pixels"""


class Perceptual(NamedTuple):
    """LPIPS if its weights are on this machine, or the reason why not."""

    distance: PerceptualDistance | None = None
    reason: str = "not asked for"

    @classmethod
    def find(cls) -> "Perceptual":
        """From the weights in torchvision's cache; nothing is downloaded."""
        files = {name: backbone_file(name) for name in _BACKBONES}
        names = ", ".join(file.name for file in files.values())
        reason = f"none of {names} is in checkpoints/ of torch's cache on the server"
        for name, file in files.items():
            try:
                if (found := file.find(None, "")) is not None:
                    return cls(build_perceptual(name, image_channels=3, weights_file=found), "")
            except UserError:
                reason = f"{file.name} on the server is damaged"
        return cls(None, reason)


def measure(
    got: Array, wanted: Array, pixels: PixelFormat, perceptual: Perceptual, check: Callable[[], None]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """PSNR in dB, SSIM and LPIPS of `got` [H,W,C] against `wanted`, and for each that is None the reason.

    Of numbers also the mean absolute (MAE), root mean squared (RMSE) and largest (MAX) error in their units. LPIPS is
    of the channels that are shown; values beyond the format's range count as its ends. `check` is called between pieces
    of work; what it raises ends the measuring.
    """
    steps: dict[str, Callable[[], tuple[float | None, str]]] = {
        "PSNR": lambda: _psnr(got, wanted, pixels),
        "SSIM": lambda: _ssim(got, wanted, pixels, check),
        "LPIPS": lambda: _lpips(got, wanted, pixels, perceptual),
    }
    metrics: dict[str, float | None] = _in_units(got, wanted, pixels) if pixels.numbers else {}
    notes: dict[str, str] = {}
    for name, step in steps.items():
        metrics[name], reason = step()
        if reason:
            notes[name] = reason
        check()
    return metrics, notes


def _psnr(got: Array, wanted: Array, pixels: PixelFormat) -> tuple[float | None, str]:
    total, peak = 0.0, 2 if pixels.numbers else 255
    for rows in _strips(wanted):
        if pixels.numbers:
            ours, theirs = (pixels.to_tensor(image[rows]).double() for image in (got, wanted))
            total += float((ours - theirs).square().sum())
        else:  # integers: exact, and the same for any strips
            total += int(np.square(got[rows].astype(np.int32) - wanted[rows]).sum(dtype=np.int64))
    if not total:
        return None, "the images are the same in every pixel"
    return 10 * math.log10(peak**2 * wanted.size / total), ""


def _in_units(got: Array, wanted: Array, pixels: PixelFormat) -> dict[str, float | None]:
    total = squares = largest = 0.0
    for rows in _strips(wanted):
        ours, theirs = (pixels.in_units(pixels.to_tensor(image[rows])) for image in (got, wanted))
        errors = (ours - theirs).abs()
        total, squares = total + float(errors.sum()), squares + float(errors.square().sum())
        largest = max(largest, float(errors.max()))
    return {"MAE": total / wanted.size, "RMSE": math.sqrt(squares / wanted.size), "MAX": largest}


def _ssim(got: Array, wanted: Array, pixels: PixelFormat, check: Callable[[], None]) -> tuple[float | None, str]:
    """As `evaluation.metrics.ssim`: the mean over all positions of the map, whose borders are mirrored."""
    if min(wanted.shape[:2]) < SSIM_MINIMUM_SIDE:
        return None, f"the image has a side of fewer than {SSIM_MINIMUM_SIDE} pixels"
    from torchmetrics.functional.image import structural_similarity_index_measure  # noqa: PLC0415 - takes a second

    total = 0.0
    for rows in _strips(wanted):
        check()
        around = slice(max(0, rows.start - _MARGIN), min(len(wanted), rows.stop + _MARGIN))
        a, b = (pixels.to_tensor(image[around])[None] / 2 + 0.5 for image in (got, wanted))
        _, similarity = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        inside = similarity[..., rows.start - around.start : rows.stop - around.start, :]
        total += float(inside.double().sum())
    return total / wanted.size, ""


def _lpips(got: Array, wanted: Array, pixels: PixelFormat, perceptual: Perceptual) -> tuple[float | None, str]:
    distance = perceptual.distance
    if distance is None:
        return None, perceptual.reason
    height, width = wanted.shape[:2]
    if min(height, width) < distance.minimum_side:
        return None, f"the image has a side of fewer than {distance.minimum_side} pixels"
    if height * width > PERCEPTUAL_PIXELS:
        return None, f"not measured on more than {PERCEPTUAL_PIXELS / 1e6:g} million pixels"
    shown = [pixels.shown_tensor(pixels.to_tensor(image)) for image in (got, wanted)]
    pair = [image.expand(3, *image.shape[1:])[None] for image in shown]
    with torch.inference_mode():
        return float(distance(*pair)), ""


def _strips(image: Array) -> list[slice]:
    """Rows, a few at a time, that cover an image."""
    height, width = image.shape[:2]
    step = max(1, _STRIP_PIXELS // width)
    return [slice(first, min(first + step, height)) for first in range(0, height, step)]


def has_baselines(pixels: PixelFormat) -> bool:
    """Whether JPEG and WebP hold such images."""
    return not pixels.numbers and pixels.channels in (1, 3)


def require_baselines(pixels: PixelFormat) -> None:
    """Raise BadRequest for images that JPEG and WebP cannot hold."""
    if not has_baselines(pixels):
        raise BadRequest(f"baselines: JPEG and WebP cannot hold images of {pixels.describe()}: leave it out")


def baselines(
    image: Pixels, sizes: Sequence[Size], perceptual: Perceptual, tick: Callable[[float], None]
) -> tuple[Baseline, ...]:
    """JPEG and WebP at no more bytes than the smallest form of the latents, measured as a reconstruction is.

    `tick` is called with the share that is done between pieces of work; what it raises ends the search.
    """
    max_bytes = min(size.bytes for size in sizes if size.what != "upload")
    names = [name for name in _QUALITIES if max(image.shape[:2]) <= _MAX_SIDE[name]]  # others cannot hold the image

    def part(place: int, share: float) -> None:
        tick((place + share) / len(names))

    return tuple(
        _baseline(name, image, max_bytes, perceptual, partial(part, place)) for place, name in enumerate(names)
    )


def _baseline(
    name: str, image: Pixels, max_bytes: int, perceptual: Perceptual, tick: Callable[[float], None]
) -> Baseline:
    data, quality = best_within(name, image, max_bytes, lambda share: tick(_SEARCH_SHARE * share))
    with Image.open(io.BytesIO(data)) as decoded:
        got = to_uint8(decoded, image.shape[2])
    metrics, _ = measure(got, image, PixelFormat.picture(image.shape[2]), perceptual, lambda: tick(_SEARCH_SHARE))
    return Baseline(name, got, len(data), quality, metrics, reached=len(data) <= max_bytes)


def best_within(name: str, image: Pixels, max_bytes: int, tick: Callable[[float], None]) -> tuple[bytes, int]:
    """The file of [H,W,C] as JPEG or WebP at the highest quality that takes at most `max_bytes`, and that quality.

    At the lowest quality if that takes more. `tick` is called with the share that is done before each attempt; what it
    raises ends the search.
    """
    picture = to_pil(image)
    low, high = _QUALITIES[name]
    attempts, most = itertools.count(), 1 + (high - low).bit_length()

    def attempt(quality: int) -> bytes:
        tick(min(1.0, next(attempts) / most))
        stream = io.BytesIO()
        picture.save(stream, name, quality=quality, **_OPTIONS[name])
        return stream.getvalue()

    best, data = low, attempt(low)
    # A file grows with its quality but for single steps: the result is within the bytes, and next to the best.
    while len(data) <= max_bytes and low < high:
        middle = (low + high + 1) // 2
        if len(file := attempt(middle)) <= max_bytes:
            best, data, low = middle, file, middle
        else:
            high = middle - 1
    return data, best
