"""Measures of a reconstruction: PSNR, SSIM, MS-SSIM, L1, errors in the data's units, colour bias, gradient energy.

Images are [B, C, H, W] in [-1, 1]; a measure is one float32 number per image, [B]. Reconstructions are clamped to
[-1, 1] first, as they are when they become a file.
B C H W: images, colour channels, pixels.
"""

import math
from typing import Any

import torch
from torch import Tensor

from latent_ae.evaluation.metrics.baseline import levels_used
from latent_ae.evaluation.perceptual import PerceptualDistance
from latent_ae.io.pixel_format import PixelFormat

SSIM_MINIMUM_SIDE = 6  # the 11-pixel window's half, which the border is mirrored by, must fit into the image
MS_SSIM_MINIMUM_SIDE = (
    176  # torchmetrics asks for side // 16 > 10: the window must fit the fifth, 16-fold smaller scale
)

FLAT = 1 / 255
"""an image whose differences have a smaller root mean square, half an 8-bit level on [-1, 1], holds no detail"""
PSNR_LIMIT = 100.0
"""dB; an identical image would make a mean infinite"""
FLAT_PSNR = "flat_psnr"
MEAN_IMAGE_PSNR = "mean_image_psnr"
COLOR_BIAS, CHANNEL_PSNR = "color_bias_", "psnr_"
"""and the channel's number"""
LEVELS_USED = "levels_used"
MAX_ERROR = "max_error"
IN_UNITS = ("mae", "rmse", MAX_ERROR)
"""measures in the data's own units"""
UNITS_AND_PROTOCOLS = {
    "psnr": ("dB", f"data range 2 on [-1, 1], over all pixels and channels; at most {PSNR_LIMIT:g} an image"),
    FLAT_PSNR: ("dB", "as psnr, of an image's own mean colour in place of its reconstruction: a baseline"),
    MEAN_IMAGE_PSNR: ("dB", "as psnr, of the mean squared error over all images"),
    "mae": ("", "mean absolute error"),
    "rmse": ("", "root of an image's mean squared error"),
    MAX_ERROR: ("", "largest absolute error of any value of any image"),
    "ssim": ("", "torchmetrics on [0, 1], data range 1, 11x11 Gaussian window of sigma 1.5"),
    "ms_ssim": ("", "torchmetrics on [0, 1], data range 1, 5 scales, 11x11 Gaussian window of sigma 1.5"),
    "l1": ("", "mean absolute difference on [-1, 1]"),
    "perceptual": ("", ""),
    "gradient_energy_ratio": ("", "squared forward differences, reconstruction over image; below 1 is blur"),
    "kl_nats": ("nats/image", "KL of the posterior to N(0, 1), summed over an image's latents"),
    "kl_bits_per_pixel": ("bits/pixel", "kl_nats / (ln 2 * H * W), H and W before padding"),
}


def compare(
    reconstruction: Tensor,
    target: Tensor,
    *,
    pixels: PixelFormat,
    perceptual: PerceptualDistance | None = None,
) -> dict[str, list[Any]]:
    """Two [B, C, H, W] in [-1, 1] -> B values by measure, without measures that their size does not allow.

    `pixels` says what numbers are in their own units, and whether channels have a PSNR each. A value is None if it is
    undefined for its image.
    """
    columns: dict[str, Tensor | None] = {
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
    if shows_channels(pixels):
        for channel in range(pixels.channels):
            one = slice(channel, channel + 1)
            columns[f"{CHANNEL_PSNR}{channel}"] = psnr(reconstruction[:, one], target[:, one])
    if pixels.numbers:
        columns |= errors_in_units(*(pixels.in_units(images.cpu()) for images in (reconstruction, target)))
    lists: dict[str, list[Any]] = {name: values.tolist() for name, values in columns.items() if values is not None}
    lists[LEVELS_USED] = levels_used(target)
    lists["gradient_energy_ratio"] = gradient_energy_ratio(reconstruction, target)
    return lists


def shows_channels(pixels: PixelFormat) -> bool:
    """Whether the channels have a PSNR each: there are more than R, G and B, or one of them is alpha."""
    return pixels.channels > 3 or pixels.alpha != "none"


def errors_in_units(reconstruction: Tensor, target: Tensor) -> dict[str, Tensor | None]:
    """Mean absolute, root mean squared and largest error [B] of two [B, C, H, W] in the data's units."""
    errors = (reconstruction - target).abs().flatten(1)
    return {"mae": errors.mean(1), "rmse": errors.square().mean(1).sqrt(), MAX_ERROR: errors.amax(1)}


def psnr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB: 10 log10(2^2 / MSE), over all pixels and channels of an image.

    Infinite for identical images, which the mean of an `EvaluationReport` counts as 100 dB.
    """
    reconstruction, target = comparable(reconstruction, target)
    return 10 * torch.log10(4 / (reconstruction - target).square().mean((1, 2, 3)))


def psnr_of(mse: float) -> float:
    """The PSNR in dB, at most 100, of a mean squared error on [-1, 1]; NaN of NaN."""
    return PSNR_LIMIT if mse <= 4 / 10 ** (PSNR_LIMIT / 10) else 10 * math.log10(4 / mse)


def l1(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference [B], in units of the range [-1, 1]: 2 is black for white."""
    reconstruction, target = comparable(reconstruction, target)
    return (reconstruction - target).abs().mean((1, 2, 3))


def ssim(reconstruction: Tensor, target: Tensor) -> Tensor | None:
    """Structural similarity [B] (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5, K = (0.01, 0.03).

    Measured on [0, 1] with data range 1, as the measure is defined: its luminance term compares means, so on [-1, 1]
    the same images would give other numbers. None if a side has fewer than 6 pixels.
    """
    images = _intensities(reconstruction, target)
    if min(target.shape[2:]) < SSIM_MINIMUM_SIDE:
        return None
    from torchmetrics.functional import image as torchmetrics_image  # noqa: PLC0415 - takes a second

    with torch.autocast(target.device.type, enabled=False):
        values = torchmetrics_image.structural_similarity_index_measure(*images, data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.float()


def ms_ssim(reconstruction: Tensor, target: Tensor) -> Tensor | None:
    """Multi-scale structural similarity [B] (Wang et al. 2003), five scales, on [0, 1] as `ssim`.

    None if a side has fewer than 176 pixels, as the window does not fit the fifth scale.
    """
    images = _intensities(reconstruction, target)
    if min(target.shape[2:]) < MS_SSIM_MINIMUM_SIDE:
        return None
    from torchmetrics.functional import image as torchmetrics_image  # noqa: PLC0415 - takes a second

    with torch.autocast(target.device.type, enabled=False):
        return torchmetrics_image.multiscale_structural_similarity_index_measure(
            *images, data_range=1.0, reduction="none"
        ).float()


def color_bias(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels of reconstruction - target, [B, C] by image and channel, on [-1, 1].

    Above 0 the reconstruction is too bright in that channel; 2 is white for black. Both are [B, C, H, W], the
    reconstruction clamped to [-1, 1]. Means over images keep the sign: what is left there is a tint of the model,
    where the images' own errors cancel.
    """
    reconstruction, target = comparable(reconstruction, target)
    return (reconstruction - target).mean((2, 3))


def gradient_energy_ratio(reconstruction: Tensor, target: Tensor) -> list[float | None]:
    """Gradient energy of a reconstruction over that of its target, an image each: 1 is as sharp, below 1 is blurred.

        G(x) = sum over channels, rows i, columns j of (x[i, j+1] - x[i, j])^2 + (x[i+1, j] - x[i, j])^2
        ratio = G(reconstruction) / G(target)

    Both are [B, C, H, W] in [-1, 1], reconstructions clamped to it; forward differences lie within the image. Noise
    and ringing raise it as detail does, so 1 proves nothing alone: read it beside PSNR.
    None where the target is flat: its differences have a root mean square below `FLAT`, or it has one pixel.
    """
    got, wanted = (_gradient_energy(images) for images in comparable(reconstruction, target))
    shape = (target.shape[1], target.shape[2], target.shape[3])
    return [energy_ratio(g, w, shape=shape) for g, w in zip(got.tolist(), wanted.tolist(), strict=True)]


def energy_ratio(got: float, wanted: float, *, shape: tuple[int, int, int]) -> float | None:
    """The ratio of two gradient energies of images of a shape (C, H, W); None where the target is flat."""
    channels, height, width = shape
    flat = FLAT**2 * channels * (height * (width - 1) + (height - 1) * width)
    return got / wanted if wanted > flat else None


def comparable(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both float32, the reconstruction clamped to [-1, 1]. Raises ValueError if they are not [B, C, H, W] alike."""
    if reconstruction.shape != target.shape or target.ndim != 4:
        raise ValueError(
            "reconstruction and target must be [B, C, H, W] of one shape, "
            f"got {tuple(reconstruction.shape)} and {tuple(target.shape)}"
        )
    return reconstruction.float().clamp(-1, 1), target.float()


def _intensities(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both in [0, 1]; float64 on CUDA, whose float32 convolutions may round to TF32's 10 bits.

    Variances are taken as E[x^2] - E[x]^2, where little is left of 10 bits.
    """
    dtype = torch.float64 if target.is_cuda else torch.float32
    reconstruction, target = comparable(reconstruction, target)
    return (reconstruction.to(dtype) + 1) / 2, (target.to(dtype) + 1) / 2


def _gradient_energy(images: Tensor) -> Tensor:
    """G [B] of [B, C, H, W]."""
    return images.diff(dim=3).square().sum((1, 2, 3)) + images.diff(dim=2).square().sum((1, 2, 3))
