"""Whether the latents turn, mirror and shrink with the image (EQ-VAE, Kouzelis et al. 2025).

B C H W: images, colour channels, pixels; c h w: latent channels and grid.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from latent_ae.evaluation.metrics.moments import Moments, merged, rounded

Encode = Callable[[Tensor], Tensor]
"""pixels [B, C, H, W] in [-1, 1] => latents [B, c, H / factor, W / factor], without randomness"""


def _half(images: Tensor) -> Tensor:
    """Bilinear with an antialiasing filter: no overshoot out of [-1, 1], unlike bicubic."""
    size = (images.shape[2] // 2, images.shape[3] // 2)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "rot90": lambda images: images.rot90(1, (2, 3)),
    "rot180": lambda images: images.rot90(2, (2, 3)),
    "rot270": lambda images: images.rot90(3, (2, 3)),
    "flip": lambda images: images.flip(3),
    "half": _half,
}
"""of pixels and of latents, [B, C, H, W]; rotations are counterclockwise, the flip is horizontal"""


class EquivarianceStatistics:
    """How far E(t(x)) is from t(E(x)), relative to how much the latents vary: float64, one pass, mergeable.

        error(t) = mean (E(t(x)) - t(E(x)))^2 / mean (E(x) - m)^2

    with means over all images, channels and positions and m the mean of each channel over all images and positions.
    So neither scale nor shift of the latents matters, and models can be compared. 0: the latents follow the image; 1:
    their mean predicts E(t(x)) as well; 2: so do the latents of another image. An image with little detail has little
    weight, while it would dominate a mean of ratios per image.

    `half` is left out for images whose halved sides are not multiples of the factor. A transform for which an image
    gave latents that are not finite has no error.
    """

    def __init__(self, factor: int) -> None:
        """`factor` is the number of pixels per latent position along a side."""
        if factor < 1:
            raise ValueError(f"factor must be 1 or more, got {factor}")
        self.factor = factor
        self.images = 0
        self._sums = {name: _Sums() for name in TRANSFORMS}

    def update(self, encode: Encode, pixels: Tensor) -> None:
        """Add a batch, [B, C, H, W] with sides that are multiples of the factor; `encode` is called 6 times.

        Raises ValueError for other sides, or latents of another shape.
        """
        if pixels.ndim != 4 or any(side % self.factor for side in pixels.shape[2:]):
            raise ValueError(
                f"pixels must be [B, C, H, W] with sides that are multiples of {self.factor}, got {list(pixels.shape)}"
            )
        batch = EquivarianceStatistics(self.factor)
        batch.images = len(pixels)
        latents = self._encoded(encode, pixels)
        for name, transform in TRANSFORMS.items():
            if name == "half" and any(side % (2 * self.factor) for side in pixels.shape[2:]):
                continue
            error = self._encoded(encode, transform(pixels)) - transform(latents)
            batch._sums[name] = _Sums.of(error, latents)
        self.merge(batch)

    def merge(self, other: "EquivarianceStatistics") -> None:
        """Add the images of `other`. Raises ValueError if its factor or number of latent channels differs."""
        if other.factor != self.factor:
            raise ValueError(f"factors must be equal, got {self.factor} and {other.factor}")
        for name, sums in other._sums.items():
            self._sums[name].merge(sums)
        self.images += other.images

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """By transform: `error`, or None for a `reason`, and the number of `images` that it was measured on."""
        return {name: self._described(sums) for name, sums in self._sums.items()}

    def _described(self, sums: "_Sums") -> dict[str, Any]:
        error, reason = None, None
        if sums.nonfinite_images:
            total = sums.images + sums.nonfinite_images
            reason = f"{sums.nonfinite_images} of {total} images gave latents that are not finite"
        elif sums.latents is None:
            reason = f"no image has sides that are multiples of {2 * self.factor}" if self.images else "no image"
        elif not (variance := sums.variance()) > 0:
            reason = "the latents do not vary"
        else:
            error = rounded(sums.squares / sums.values / variance)
        return {"error": error, "images": 0 if reason else sums.images, "reason": reason}

    def _encoded(self, encode: Encode, pixels: Tensor) -> Tensor:
        latents = encode(pixels).detach().to("cpu").to(torch.float64)
        height, width = (side // self.factor for side in pixels.shape[2:])
        if latents.ndim != 4 or (len(latents), *latents.shape[2:]) != (len(pixels), height, width):
            raise ValueError(
                f"encode must give latents [{len(pixels)}, c, {height}, {width}] for pixels {list(pixels.shape)} at "
                f"factor {self.factor}, got {list(latents.shape)}"
            )
        return latents


@dataclass
class _Sums:
    """Sums of one transform over its images with finite latents."""

    images: int = 0
    nonfinite_images: int = 0
    squares: float = 0.0
    """sum of the squared errors"""
    values: int = 0
    """their number"""
    latents: Moments | None = None
    """of E(x), by channel"""

    @classmethod
    def of(cls, error: Tensor, latents: Tensor) -> "_Sums":
        finite = error.flatten(1).isfinite().all(1) & latents.flatten(1).isfinite().all(1)
        error, latents = error[finite], latents[finite]
        return cls(
            images=len(latents),
            nonfinite_images=int((~finite).sum()),
            squares=float(error.square().sum()),
            values=error.numel(),
            latents=Moments.of(latents.transpose(0, 1).flatten(1).T) if len(latents) else None,
        )

    def merge(self, other: "_Sums") -> None:
        self.latents = merged(self.latents, other.latents)
        self.images += other.images
        self.nonfinite_images += other.nonfinite_images
        self.squares += other.squares
        self.values += other.values

    def variance(self) -> float:
        """Of the latents about their channels' means; channels have equally many values."""
        return 0.0 if self.latents is None else float(self.latents.variance.mean())
