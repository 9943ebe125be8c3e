"""The distance that needs no weights: a fixed random network."""

import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latent_ae.errors import UserError
from latent_ae.evaluation.perceptual.distance import PerceptualDistance

_RANDOM_SEED = 0
_RANDOM_WIDTHS = (16, 32, 64)


class RandomFeatures(PerceptualDistance):
    """Squared differences of the features of a fixed random network: needs no weights file and no download.

    Liu et al. (CVPR 2021, "Generic Perceptual Loss for Modeling Structured Output Dependencies"): the structure of a
    randomly initialised VGG-like network already carries the dependence between neighbouring pixels. Three stages of
    two 3x3 convolutions with ReLU and no bias, 16, 32 and 64 wide, 2x average pooling between; He-normal weights.
    Unlike theirs the first kernels sum to 0: brightness, the pixel loss's task, would outweigh blur tenfold.

        d(a, b) = 1/3 * sum over stages k of  mean over positions and channels of (f_k(a) - f_k(b))^2 / s_k^2

    s_k^2 is the same mean over pairs of N(0, 1) noise images: such a pair is at distance 1 in every stage, so that no
    stage is lost beside another. On photographs, blur and noise come to about twice their mean squared error.
    """

    def __init__(self, *, image_channels: int, weights_file: Path | None = None) -> None:
        if weights_file is not None:
            raise UserError(f"random_features has no weights file, got {weights_file}: leave it out")
        super().__init__(
            image_channels=image_channels,
            minimum_side=4,
            protocol=f"random_features v1 (16-32-64), seed {_RANDOM_SEED}, {image_channels} channels",
        )
        self.strides, self.margin, self.floats_per_pixel = (1, 2, 4), 16, 100
        generator = torch.Generator().manual_seed(_RANDOM_SEED)
        draw = partial(torch.randn, generator=generator, dtype=torch.float32, device="cpu")
        self.kernels = nn.ParameterList()
        before = image_channels
        for width in _RANDOM_WIDTHS:
            for _ in range(2):
                kernel = draw(width, before, 3, 3) * math.sqrt(2 / (9 * before))
                if not len(self.kernels):
                    kernel = kernel - kernel.mean((2, 3), keepdim=True)
                self.kernels.append(kernel)
                before = width
        self.scales: Tensor
        self.register_buffer("scales", torch.ones(len(_RANDOM_WIDTHS)))
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            one, other = (self._features(draw(4, image_channels, 64, 64)) for _ in range(2))
            self.scales = torch.stack([(a - b).square().mean() for a, b in zip(one, other, strict=True)])
        self.requires_grad_(False).eval()

    def _features(self, images: Tensor) -> list[Tensor]:
        stages = []
        for stage in range(len(_RANDOM_WIDTHS)):
            if stage:
                images = F.avg_pool2d(images, 2)
            for kernel in self.kernels[2 * stage : 2 * stage + 2]:
                # repeating the border keeps it from looking like an edge, which zeros would
                images = F.relu(F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel), inplace=True)
            stages.append(images)
        return stages

    def _distance(self, got: list[Tensor], wanted: list[Tensor]) -> Tensor:
        stages = [(a - b).square().mean((1, 2, 3)) for a, b in zip(got, wanted, strict=True)]
        return (torch.stack(stages) / self.scales[:, None]).mean(0)

    def _maps(self, got: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
        weights = 1 / (len(self.scales) * self.scales)
        return [(a - b).square().mean(1) * weight for a, b, weight in zip(got, wanted, weights, strict=True)]
