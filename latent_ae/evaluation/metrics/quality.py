"""How close a reconstruction is to its image, pixel by pixel and window by window.

Images are [B, C, H, W] in [-1, 1]; a measure is one float32 number per image, [B]. Reconstructions are clamped to
[-1, 1] first, as they are when they become a file.
B C H W: images, colour channels, pixels.
"""

import torch
from torch import Tensor

SSIM_MINIMUM_SIDE = 6  # the 11-pixel window's half, which the border is mirrored by, must fit into the image
MS_SSIM_MINIMUM_SIDE = (
    176  # torchmetrics asks for side // 16 > 10: the window must fit the fifth, 16-fold smaller scale
)


def psnr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio [B] in dB: 10 log10(2^2 / MSE), over all pixels and channels of an image.

    Infinite for identical images; a mean has to decide what to make of that (`evaluation` counts them as 100 dB).
    """
    reconstruction, target = comparable(reconstruction, target)
    return 10 * torch.log10(4 / (reconstruction - target).square().mean((1, 2, 3)))


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

    None if a side has fewer than 176 pixels: the fifth scale has no room for the window.
    """
    images = _intensities(reconstruction, target)
    if min(target.shape[2:]) < MS_SSIM_MINIMUM_SIDE:
        return None
    from torchmetrics.functional import image as torchmetrics_image  # noqa: PLC0415 - takes a second

    with torch.autocast(target.device.type, enabled=False):
        return torchmetrics_image.multiscale_structural_similarity_index_measure(
            *images, data_range=1.0, reduction="none"
        ).float()


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
