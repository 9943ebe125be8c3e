"""What images are before any model: the error of their mean in place of a reconstruction, and the levels they use.

B C H W: images, channels, pixels.
"""

import torch
from torch import Tensor

from latent_ae.evaluation.metrics.moments import Moments, merged, merged_if_alike, rounded

LEVELS = 256
FEW_LEVELS = 17
"""what 12-bit values use in the range of 16 bits, and 4-bit images in any"""
_MEAN_IMAGE_VALUES = 1 << 24
"""of the largest image whose mean is taken pixel by pixel: the sums are two float64 values each"""


def levels_used(images: Tensor) -> list[int]:
    """[B, C, H, W] in [-1, 1] -> the number of the range's 256 equal levels that each image has a value near."""
    levels = ((images.cpu() + 1) * ((LEVELS - 1) / 2)).round().clamp(0, LEVELS - 1).to(torch.int64)
    return [int(torch.bincount(image.flatten(), minlength=LEVELS).count_nonzero()) for image in levels]


class MeanImageStatistics:
    """The error of the mean of the other images in place of a reconstruction: float64, one pass, mergeable.

    With n images x_i, their mean m and the mean m_i of all but one, x_i - m_i = (x_i - m) n / (n - 1):

        mse = 1/n sum_i mean (x_i - m_i)^2 = (n / (n - 1))^2 * mean over pixels and channels of the variance over images

    Images that differ in size, and very large ones, have a mean colour in place of a mean image: their variance is that
    of the colours, and the variance within an image is added.
    """

    def __init__(self) -> None:
        self._pixels: Moments | None = None
        self._colors: Moments | None = None
        self._within = 0.0
        """sum over images of the mean squared distance to their own colour"""

    def update(self, images: Tensor) -> None:
        """Add a batch [B, C, H, W]."""
        images = images.detach().cpu().double()
        colors = images.mean((2, 3))
        batch = MeanImageStatistics()
        batch._colors = Moments.of(colors)
        batch._within = float((images - colors[:, :, None, None]).square().mean((1, 2, 3)).sum())
        if images[0].numel() <= _MEAN_IMAGE_VALUES:
            batch._pixels = Moments.of(images)
        self.merge(batch)

    def merge(self, other: "MeanImageStatistics") -> None:
        """Add the images of `other`, with as many channels."""
        both = self._colors is not None and other._colors is not None
        self._pixels = (merged_if_alike if both else merged)(self._pixels, other._pixels)
        self._colors = merged(self._colors, other._colors)
        self._within += other._within

    @property
    def mean_is(self) -> str:
        """What stands in place of a reconstruction, for a protocol."""
        return "colour" if self._pixels is None else "image"

    def mse(self) -> float | None:
        """To 9 digits; None for fewer than two images."""
        if self._colors is None or (count := self._colors.count) < 2:
            return None
        without_own = (count / (count - 1)) ** 2
        if self._pixels is not None:
            return rounded(float(self._pixels.variance.mean()) * without_own)
        return rounded(self._within / count + float(self._colors.variance.mean()) * without_own)
