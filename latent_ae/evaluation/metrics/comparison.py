"""Every measure of a reconstruction beside its image, image by image."""

from typing import Any

from torch import Tensor

from latent_ae.evaluation.metrics.color import color_bias
from latent_ae.evaluation.metrics.quality import l1, ms_ssim, psnr, ssim
from latent_ae.evaluation.metrics.sharpness import gradient_energy_ratio
from latent_ae.evaluation.perceptual import PerceptualDistance

PSNR_LIMIT = 100.0
"""dB; an identical image would make a mean infinite"""
FLAT_PSNR = "flat_psnr"
COLOR_BIAS = "color_bias_"
"""and the channel's number"""
UNITS_AND_PROTOCOLS = {
    "psnr": ("dB", f"data range 2 on [-1, 1], over all pixels and channels; at most {PSNR_LIMIT:g} an image"),
    FLAT_PSNR: ("dB", "as psnr, of an image's own mean colour in place of its reconstruction: a baseline"),
    "ssim": ("", "torchmetrics on [0, 1], data range 1, 11x11 Gaussian window of sigma 1.5"),
    "ms_ssim": ("", "torchmetrics on [0, 1], data range 1, 5 scales, 11x11 Gaussian window of sigma 1.5"),
    "l1": ("", "mean absolute difference on [-1, 1]"),
    "perceptual": ("", ""),
    "gradient_energy_ratio": ("", "squared forward differences, reconstruction over image; below 1 is blur"),
    "kl_nats": ("nats/image", "KL of the posterior to N(0, 1), summed over an image's latents"),
    "kl_bits_per_pixel": ("bits/pixel", "kl_nats / (ln 2 * H * W), H and W before padding"),
}


def compare(
    reconstruction: Tensor, target: Tensor, *, perceptual: PerceptualDistance | None = None
) -> dict[str, list[Any]]:
    """[B, C, H, W] in [-1, 1] both => a list of B values by measure; what their size does not allow is absent.

    A value is None where an image does not allow it.
    """
    columns = {
        "psnr": psnr(reconstruction, target),
        FLAT_PSNR: psnr(target.mean((2, 3), keepdim=True).expand_as(target), target),
        "ssim": ssim(reconstruction, target),
        "ms_ssim": ms_ssim(reconstruction, target),
        "l1": l1(reconstruction, target),
    }
    if perceptual is not None and min(target.shape[2:]) >= perceptual.minimum_side:
        columns["perceptual"] = perceptual(reconstruction, target)
    for channel, bias in enumerate(color_bias(reconstruction, target).T):
        columns[f"{COLOR_BIAS}{channel}"] = bias
    lists: dict[str, list[Any]] = {name: values.tolist() for name, values in columns.items() if values is not None}
    lists["gradient_energy_ratio"] = gradient_energy_ratio(reconstruction, target)
    return lists
