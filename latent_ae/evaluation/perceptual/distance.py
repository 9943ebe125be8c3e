"""What all perceptual distances are: features of two images, compared; of large ones part by part.

B C H W: images, colour channels, height and width in pixels.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from latent_ae.evaluation.metrics.windows import windows
from latent_ae.evaluation.view import View

_WINDOW = 512
"""pixels a side of the parts of a large image"""


class PerceptualDistance(nn.Module, ABC):
    """Distance between the features of two images. Subclasses bring `_features`, `_distance` and `_maps`.

    Frozen, always in eval mode. The network may run under autocast; what is computed from its features is float32.
    """

    strides: tuple[int, ...]
    """pixels between the values of each layer, powers of two that grow"""
    margin: int
    """pixels around a part of an image that its features depend on, a multiple of the last stride"""
    floats_per_pixel: int
    """values that are held at once for a pixel of a pair of images, in about"""

    def __init__(self, *, image_channels: int, minimum_side: int, protocol: str) -> None:
        super().__init__()
        if image_channels not in (1, 3):
            raise ValueError(f"image_channels must be 1 or 3, got {image_channels}")
        self.image_channels = image_channels
        self.minimum_side = minimum_side
        """images with a smaller side, in pixels, have no distance"""
        self.protocol = protocol
        """network and weights: two numbers may be compared if their protocols are equal"""
        self.view: View | None = None

    @property
    def window_pixels(self) -> int:
        """Of a part of a large image with its margin."""
        return (_WINDOW + 2 * self.margin) ** 2

    def seeing(self, view: View) -> "PerceptualDistance":
        """The same distance, of images that it sees through `view`."""
        self.view = view
        self.protocol += str(view)
        return self

    def train(self, mode: bool = True) -> "PerceptualDistance":  # noqa: ARG002
        """Stays in eval mode: a loss inside a module that is switched to training must not change."""
        return super().train(False)

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Per-image distance [B] float32 of two [B, C, H, W] batches in [-1, 1]; 0 for identical images.

        Gradient reaches `reconstruction` alone. Raises ValueError for another shape or a side under `minimum_side`.
        """
        if self.view is not None:
            reconstruction, target = self.view(reconstruction), self.view(target)
        shape = reconstruction.shape
        if shape != target.shape or len(shape) != 4 or shape[1] != self.image_channels:
            raise ValueError(
                f"perceptual distance takes two [B, {self.image_channels}, H, W] batches of one shape, "
                f"got {tuple(shape)} and {tuple(target.shape)}"
            )
        if min(shape[2:]) < self.minimum_side:
            raise ValueError(
                f"{self.protocol.split(',')[0]} needs sides of at least {self.minimum_side} pixels, got images of "
                f"{shape[2]}x{shape[3]}: use larger images or random_features"
            )
        with torch.no_grad():
            wanted = self._features(target.float())
        got = self._features(reconstruction.float())
        return self._distance([feature.float() for feature in got], [feature.float() for feature in wanted])

    @torch.no_grad()
    def in_windows(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """The distance [B] float64 of two large [B, C, H, W] in [-1, 1], of sides that `forward` takes, in bounded
        memory: the same up to the order of sums.
        """
        size = (target.shape[2], target.shape[3])
        sums = [torch.zeros(len(target), dtype=torch.float64, device=target.device) for _ in self.strides]
        counts = [0] * len(sums)
        for window in windows(size, side=_WINDOW, margin=self.margin):
            wanted, got = (
                [
                    window.without_margin(feature, size, stride).float().contiguous()
                    for feature, stride in zip(self._seen_features(window.of(images)), self.strides, strict=True)
                ]
                for images in (target, reconstruction)
            )
            for layer, values in enumerate(self._maps(got, wanted)):
                sums[layer] += values.sum((1, 2), dtype=torch.float64)
                counts[layer] += values[0].numel()
        return torch.stack([total / count for total, count in zip(sums, counts, strict=True)]).sum(0)

    def _seen_features(self, images: Tensor) -> list[Tensor]:
        seen = (images if self.view is None else self.view(images)).float()
        return self._features(seen.contiguous(memory_format=torch.channels_last))  # for CPUs, a quarter faster

    @abstractmethod
    def _features(self, images: Tensor) -> list[Tensor]:
        """The features of [B,C,H,W], a tensor for each layer."""

    @abstractmethod
    def _distance(self, got: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """[B] from float32 features, without any operation that autocast would take to half precision."""

    @abstractmethod
    def _maps(self, got: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        """[B, h, w] of each layer: the distance is the sum of their means."""
