"""What images are before any model: the error of their mean in place of a reconstruction, and the levels they use.

B C H W: images, channels, pixels.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latent_ae.evaluation.metrics.moments import rounded

LEVELS = 256
FEW_LEVELS = 17
"""what 12-bit values use in the range of 16 bits, and 4-bit images in any"""
_MEAN_IMAGE_VALUES = 1 << 22
"""of the largest image whose mean is taken pixel by pixel: 32 MiB, which processes send each other"""

_PIECE_VALUES = 1 << 20
"""of an image that are looked at together"""


def levels_used(images: Tensor) -> list[int]:
    """[B, C, H, W] in [-1, 1] -> the number of the range's 256 equal levels that each image has a value near."""
    return [int(np.count_nonzero(sum(map(_counts, _pieces(image))))) for image in images]


def _counts(values: Tensor) -> NDArray[np.int64]:
    """[256] the number of values [C, n] near each level."""
    levels = ((values.cpu() + 1) * ((LEVELS - 1) / 2)).round_().clamp_(0, LEVELS - 1).to(torch.uint8)
    return np.bincount(levels.numpy().ravel(), minlength=LEVELS)


def _pieces(image: Tensor) -> Iterator[Tensor]:
    """The values [C, n] of an image [C, H, W], some rows at a time."""
    rows = max(1, _PIECE_VALUES // image[:, 0].numel())
    return (piece.flatten(1) for piece in image.split(rows, dim=1))


class MeanImageStatistics:
    """The error of the mean of the other images in place of a reconstruction: one pass, mergeable.

    With n images x_i, their mean m and the mean m_i of all but one, x_i - m_i = (x_i - m) n / (n - 1):

        mse = 1/n sum_i |x_i - m_i|^2 = (n / (n - 1))^2 (1/n sum_i |x_i|^2 - |m|^2)

    with |.|^2 the mean over pixels and channels; sums in float64 lose nothing of values in [-1, 1]. Images that differ
    in size, and very large ones, have a mean colour in place of a mean image: to the error of the colours is added how
    far an image is from its own.
    """

    def __init__(self) -> None:
        self.images = 0
        self._squares = 0.0
        """sum over images of |x_i|^2"""
        self._color_squares = 0.0
        """the same of their colours"""
        self._colors: Tensor | None = None
        """[C] sum of the colours"""
        self._pixels: Tensor | None = None
        """[C, H, W] sum of the images; None where they differ in size"""

    def update(self, images: Tensor) -> None:
        """Add a batch [B, C, H, W]."""
        for image in images.detach().cpu():
            one = MeanImageStatistics()
            one.images = 1
            if image.numel() <= _MEAN_IMAGE_VALUES:
                one._pixels = values = image.double()
                one._colors, one._squares = values.mean((1, 2)), float(values.square().mean())
            else:
                pieces = (piece.double() for piece in _pieces(image))
                sums = [torch.stack([piece.sum(1), piece.square().sum(1)]) for piece in pieces]
                one._colors, squares = torch.stack(sums).sum(0) / image[0].numel()
                one._squares = float(squares.mean())
            one._color_squares = float(one._colors.square().mean())
            self.merge(one)

    def merge(self, other: "MeanImageStatistics") -> None:
        """Add the images of `other`, with as many channels."""
        if not self.images:
            self._colors, self._pixels = other._colors, other._pixels
        elif other._colors is not None and self._colors is not None:
            self._colors = self._colors + other._colors
            if self._pixels is not None and other._pixels is not None and self._pixels.shape == other._pixels.shape:
                self._pixels = self._pixels + other._pixels
            else:
                self._pixels = None
        self.images += other.images
        self._squares += other._squares
        self._color_squares += other._color_squares

    @property
    def mean_is(self) -> str:
        """What stands in place of a reconstruction, for a protocol."""
        return "colour" if self._pixels is None else "image"

    def mse(self) -> float | None:
        """To 9 digits; None for fewer than two images."""
        if self.images < 2 or self._colors is None:
            return None
        squares, color_squares = self._squares / self.images, self._color_squares / self.images
        without_own = (self.images / (self.images - 1)) ** 2
        if self._pixels is not None:
            error = without_own * (squares - float((self._pixels / self.images).square().mean()))
        else:
            between = color_squares - float((self._colors / self.images).square().mean())
            error = squares - color_squares + without_own * between
        return rounded(max(0.0, error))
