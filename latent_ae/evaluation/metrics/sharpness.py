"""Whether a reconstruction is as sharp as its image."""

from torch import Tensor

from latent_ae.evaluation.metrics.quality import comparable

FLAT = 1 / 255
"""an image whose differences have a smaller root mean square, half an 8-bit level on [-1, 1], holds no detail"""


def gradient_energy_ratio(reconstruction: Tensor, target: Tensor) -> list[float | None]:
    """Gradient energy of a reconstruction over that of its target, an image each: 1 is as sharp, below 1 is blurred.

        G(x) = sum over channels, rows i, columns j of (x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2
        ratio = G(reconstruction) / G(target)

    Both are [B, C, H, W] in [-1, 1], reconstructions clamped to it; forward differences lie within the image. Noise
    and ringing raise it as detail does, so 1 proves nothing alone: read it beside PSNR.
    None where the target is flat: its differences have a root mean square below `FLAT`, or it has one pixel.
    """
    got, wanted = (_gradient_energy(images) for images in comparable(reconstruction, target))
    channels, height, width = target.shape[1:]
    flat = FLAT**2 * channels * (height * (width - 1) + (height - 1) * width)
    return [g / w if w > flat else None for g, w in zip(got.tolist(), wanted.tolist(), strict=True)]


def _gradient_energy(images: Tensor) -> Tensor:
    """G [B] of [B, C, H, W]."""
    return images.diff(dim=3).square().sum((1, 2, 3)) + images.diff(dim=2).square().sum((1, 2, 3))
