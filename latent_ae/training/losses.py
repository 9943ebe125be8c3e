"""Reconstruction terms: each a small module that returns an unweighted value per image.

In all of them pixels lie in [-1, 1] and the value is a mean over the C*H*W pixel values of an image, or of LogMSE its
logarithm. Of a padded image, whose padding is alike in both, `valid` is the share that is no padding, and the mean is
over that.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def mean_of_image(distances: Tensor, valid: Tensor | None) -> Tensor:
    """[B,C,H,W], 0 in the padding, => [B], means over the share `valid` [B] of each image; None is all of it."""
    means = distances.mean(dim=(1, 2, 3))
    return means if valid is None else means / valid


class L1(nn.Module):
    """|x - y|."""

    def forward(self, reconstruction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,C,H,W] twice => [B]."""
        return mean_of_image((reconstruction - target).abs(), valid)


class L2(nn.Module):
    """(x - y)^2."""

    def forward(self, reconstruction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,C,H,W] twice => [B]."""
        return mean_of_image((reconstruction - target).square(), valid)


class Charbonnier(nn.Module):
    """sqrt((x - y)^2 + eps^2) - eps: L1 with a smooth foot (Charbonnier et al. 1994)."""

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, reconstruction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,C,H,W] twice => [B]."""
        distance = ((reconstruction - target).square() + self.epsilon**2).sqrt() - self.epsilon
        return mean_of_image(distance, valid)


class GaussianNLL(nn.Module):
    """-log N(y; x, s^2) in nats per pixel value, ((x - y)^2 / s^2 + log s^2 + log 2 pi) / 2, with one learned log s^2.

    With it and beta = 1 the loss is the negative ELBO divided by C*H*W (Rybkin et al. 2021, "sigma-VAE").
    """

    def __init__(self, log_variance: float = 0.0) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.tensor(log_variance))

    def forward(self, reconstruction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,C,H,W] twice => [B]."""
        error = mean_of_image((reconstruction - target).square(), valid)
        return 0.5 * (error * torch.exp(-self.log_variance) + self.log_variance + math.log(2.0 * math.pi))


class LogMSE(nn.Module):
    """log(MSE + floor) / 2: GaussianNLL at each image's own best s^2, less a constant (Rybkin et al. 2021).

    Its mean falls as the mean PSNR rises, so that smooth images count as much as detailed ones, whose errors are a
    hundred times larger. The floor is the error at 46 dB, below which 8-bit images hardly differ.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        super().__init__()
        self.floor = floor

    def forward(self, reconstruction: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        """[B,C,H,W] twice => [B]."""
        error = mean_of_image((reconstruction - target).square(), valid)
        return 0.5 * torch.log(error + self.floor)


RECONSTRUCTION: dict[str, Callable[[], nn.Module]] = {
    "l1": L1,
    "l2": L2,
    "charbonnier": Charbonnier,
    "gaussian_nll": GaussianNLL,
    "log_mse": LogMSE,
}
