"""SSIM and MS-SSIM of an image of any size, in bounded memory: torchmetrics' values up to the order of sums.

A window of 11x11 weights is a product of 11 rows and 11 columns, and on a part of an image it is two matrices with a
diagonal of 11 weights: x -> rows x columns^T.
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_ae.evaluation.metrics.windows import Window, windows

_SIGMA, _REACH = 1.5, 5
"""of the Gaussian window, in pixels: 11 of them a side"""
_C1, _C2 = 0.01**2, 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""of MS-SSIM, Wang et al. 2003"""
_SIDE = 128
"""pixels: the matrices stay in a cache"""


class Structure(NamedTuple):
    """Of one image."""

    ssim: float
    ms_ssim: float | None
    """None where it was not asked for"""


def structure(reconstruction: Tensor, target: Tensor, *, multiscale: bool) -> Structure:
    """SSIM and MS-SSIM of two [1, C, H, W] in [-1, 1] with sides of 6 pixels or more, measured on [0, 1].

    MS-SSIM (`multiscale`) takes sides of 176 pixels or more.
    """
    ssim, contrast = _means(reconstruction, target)
    if not multiscale:
        return Structure(ssim, None)
    factors = [contrast]
    for _ in _SCALE_WEIGHTS[1:]:
        reconstruction, target = F.avg_pool2d(reconstruction, 2), F.avg_pool2d(target, 2)
        similarity, contrast = _means(reconstruction, target)
        factors.append(contrast)
    factors[-1] = similarity
    weights = torch.tensor(_SCALE_WEIGHTS, dtype=torch.float64)
    return Structure(ssim, float(torch.tensor(factors, dtype=torch.float64).relu().pow(weights).prod()))


def _means(reconstruction: Tensor, target: Tensor) -> tuple[float, float]:
    """The mean similarity over all pixels, where the window mirrors the image at its border, and the mean contrast
    sensitivity over those for which the window lies within it.
    """
    height, width = target.shape[2:]
    similarity = contrast = torch.zeros((), dtype=torch.float64, device=target.device)
    for window in windows((height, width), side=_SIDE, margin=_REACH):
        x, y = (_mirrored(window, image, (height, width)) for image in (reconstruction, target))
        mean_x, mean_y, xx, yy, xy = _smoothed(torch.cat([x, y, x * x, y * y, x * y]))
        mean_xx, mean_yy, mean_xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
        sensitivity = (2 * (xy - mean_xy) + _C2) / ((xx - mean_xx).clamp(min=0) + (yy - mean_yy).clamp(min=0) + _C2)
        values = (2 * mean_xy + _C1) / (mean_xx + mean_yy + _C1) * sensitivity
        similarity = similarity + values.sum(dtype=torch.float64)
        inside = tuple(
            slice(max(0, _REACH - first), max(0, min(last, whole - _REACH) - first))
            for (first, last), whole in ((window.rows, height), (window.columns, width))
        )
        contrast = contrast + sensitivity[..., inside[0], inside[1]].sum(dtype=torch.float64)
    channels, within = target.shape[1], (height - 2 * _REACH) * (width - 2 * _REACH)
    return float(similarity / (channels * height * width)), float(contrast / (channels * within))


def _mirrored(window: Window, image: Tensor, size: tuple[int, int]) -> Tensor:
    """A part of an image [1, C, H, W], on [0, 1], with a margin of `_REACH` pixels: beyond the border it is mirrored.

    In float64 on CUDA, whose products of float32 may be rounded to TF32's 10 bits.
    """
    part = (window.of(image).to(torch.float64 if image.is_cuda else torch.float32) + 1) / 2
    beyond = [
        amount
        for (first, last), whole in ((window.columns, size[1]), (window.rows, size[0]))
        for amount in (max(0, _REACH - first), max(0, last + _REACH - whole))
    ]
    return F.pad(part, beyond, mode="reflect")


def _smoothed(maps: Tensor) -> Tensor:
    """[N, C, h + 10, w + 10] -> [N, C, h, w] weighted by the window."""
    rows, columns = (_weights(length - 2 * _REACH, maps.dtype, maps.device) for length in maps.shape[2:])
    return torch.matmul(torch.matmul(rows, maps), columns.T)


@cache
def _weights(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[count, count + 10]: row i has the 11 weights of the window from column i on."""
    window = torch.exp(-torch.arange(-_REACH, _REACH + 1, dtype=torch.float64).div(_SIGMA).square() / 2)
    matrix = torch.zeros(count, count + 2 * _REACH, dtype=torch.float64)
    for offset, weight in enumerate(window / window.sum()):
        matrix.diagonal(offset).fill_(weight)
    return matrix.to(dtype).to(device)
