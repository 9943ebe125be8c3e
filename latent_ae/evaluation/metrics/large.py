"""`quality.compare` of one large image, in bounded memory: the same values up to the order of sums.

What is a mean over pixels is added up in float64 over strips of rows; SSIM and the perceptual distance are taken of
windows with a margin.
"""

from typing import Any

import torch
from torch import Tensor

from latent_ae.evaluation.metrics.baseline import levels_used
from latent_ae.evaluation.metrics.quality import (
    CHANNEL_PSNR,
    COLOR_BIAS,
    FLAT_PSNR,
    LEVELS_USED,
    MAX_ERROR,
    MS_SSIM_MINIMUM_SIDE,
    SSIM_MINIMUM_SIDE,
    energy_ratio,
    shows_channels,
)
from latent_ae.evaluation.metrics.structure import structure
from latent_ae.evaluation.perceptual import PerceptualDistance
from latent_ae.io.pixel_format import PixelFormat

_STRIP_VALUES = 1 << 20
"""of an image that are added up at once"""


def compare_large(
    reconstruction: Tensor, target: Tensor, *, pixels: PixelFormat, perceptual: PerceptualDistance | None = None
) -> dict[str, list[Any]]:
    """Two [B, C, H, W] float32 in [-1, 1] -> B values by measure, as `quality.compare`."""
    pairs = zip(reconstruction.split(1), target.split(1), strict=True)
    rows = [_compared(*pair, pixels, perceptual) for pair in pairs]
    return {name: [row[name] for row in rows] for name in rows[0]} | {LEVELS_USED: levels_used(target)}


def _compared(
    reconstruction: Tensor, target: Tensor, pixels: PixelFormat, perceptual: PerceptualDistance | None
) -> dict[str, float | None]:
    """The values of one image, [1, C, H, W] each."""
    sums = _Sums(pixels)
    height, width = target.shape[2:]
    rows = max(1, _STRIP_VALUES // (target.shape[1] * width))
    for first in range(0, height, rows):
        # One row more, for the differences between strips.
        sums.add(*(image[:, :, first : first + rows + 1] for image in (reconstruction, target)), rows=rows)
    found = sums.columns(height, width)
    if min(height, width) >= SSIM_MINIMUM_SIDE:
        large = min(height, width) >= MS_SSIM_MINIMUM_SIDE
        ssim, ms_ssim = structure(reconstruction, target, multiscale=large)
        found |= {"ssim": ssim} if ms_ssim is None else {"ssim": ssim, "ms_ssim": ms_ssim}
    if perceptual is not None and min(height, width) >= perceptual.minimum_side:
        found["perceptual"] = float(perceptual.in_windows(reconstruction, target))
    return found


class _Sums:
    """Sums over the pixels of an image, by channel where they are [C], in float64."""

    def __init__(self, pixels: PixelFormat) -> None:
        self._pixels = pixels
        self._errors = self._squares = self._targets = torch.zeros(pixels.channels, dtype=torch.float64)
        self._absolute = self._target_squares = torch.zeros((), dtype=torch.float64)
        self._energies = torch.zeros(2, dtype=torch.float64)
        self._units = torch.zeros(3, dtype=torch.float64)
        """absolute errors, their squares and the largest, in the data's units"""

    def add(self, reconstruction: Tensor, target: Tensor, *, rows: int) -> None:
        """Add strips [1, C, rows, W]; a further row after them counts as their neighbour alone."""
        pair = (reconstruction, target)
        self._energies += torch.stack([_energy(image, rows) for image in pair])
        reconstruction, target = (image[:, :, :rows] for image in pair)
        errors = reconstruction - target
        self._errors = self._errors + _by_channel(errors)
        self._squares = self._squares + _by_channel(errors.square())
        self._targets = self._targets + _by_channel(target)
        self._absolute = self._absolute + _by_channel(errors.abs()).sum()
        self._target_squares = self._target_squares + _by_channel(target.square()).sum()
        if self._pixels.numbers:
            one, other = (self._pixels.in_units(image.cpu()) for image in (reconstruction, target))
            absolute = (one - other).abs()
            total, squares, _ = self._units
            largest = torch.maximum(self._units[2], absolute.amax())
            self._units = torch.stack([total + absolute.sum(), squares + absolute.square().sum(), largest])

    def columns(self, height: int, width: int) -> dict[str, float | None]:
        """Values by measure of an image of this size."""
        places = height * width
        values = places * self._pixels.channels
        flat = self._target_squares - self._targets.square().sum() / places
        found: dict[str, float | None] = {
            "psnr": _psnr(self._squares.sum() / values),
            FLAT_PSNR: _psnr((flat / values).clamp(min=0)),
            "l1": float(self._absolute / values),
        }
        biases = enumerate((self._errors / places).tolist())
        found |= {f"{COLOR_BIAS}{channel}": bias for channel, bias in biases}
        if shows_channels(self._pixels):
            squares = enumerate(self._squares / places)
            found |= {f"{CHANNEL_PSNR}{channel}": _psnr(square) for channel, square in squares}
        if self._pixels.numbers:
            total, square, largest = self._units.tolist()
            found |= {"mae": total / values, "rmse": (square / values) ** 0.5, MAX_ERROR: largest}
        ratio = energy_ratio(*self._energies.tolist(), shape=(self._pixels.channels, height, width))
        return found | {"gradient_energy_ratio": ratio}


def _by_channel(images: Tensor) -> Tensor:
    return images.sum((0, 2, 3), dtype=torch.float64).cpu()


def _energy(images: Tensor, rows: int) -> Tensor:
    """Sum of the squared differences of the first `rows` rows to the right and downwards."""
    beside, below = images[:, :, :rows].diff(dim=3), images.diff(dim=2)
    return _by_channel(beside.square()).sum() + _by_channel(below.square()).sum()


def _psnr(mse: Tensor) -> float:
    return float(10 * torch.log10(4 / mse))
