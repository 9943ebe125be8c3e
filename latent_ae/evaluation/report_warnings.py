"""What a person should look at first in a report."""

import statistics
from collections.abc import Sequence
from typing import Any

from latent_ae.evaluation.metrics.baseline import FEW_LEVELS, LEVELS
from latent_ae.io.pixel_format import PixelFormat

SCALED_STD_RANGE = (0.8, 1.25)
_COLLAPSED_SHARE = 0.1
_COLLAPSED_NATS = 0.01
_USED_SHARE = 0.5
_LOOSE_SHARE = 0.1
_DETAIL_DB = 3.0
"""above flat images: half of the squared error"""
_REMEDY = "lower loss.beta, warm it up (loss.beta_schedule linear) or give loss.free_bits"


def latent_warnings(latents: dict[str, Any]) -> list[str]:
    """Warnings of the latents of a report; `latents` as in EvaluationReport."""
    found = []
    if bad := latents["nonfinite_images"]:
        found.append(
            f"{bad} of {bad + latents['images']} images gave latents that are not finite; they are left out of the "
            "latent statistics: check the model's weights and precision"
        )
    if (units := latents["active_units"]) is not None and latents["kl_nats_per_value"] is not None:
        found += _collapse(latents, units)
    scaled = latents["scaled"]
    if scaled is not None and not SCALED_STD_RANGE[0] <= scaled["std"] <= SCALED_STD_RANGE[1]:
        measured = f"{1 / latents['sample']['std']:.5g}" if latents["sample"]["std"] else "infinite"
        found.append(
            f"scaled latents have a standard deviation of {scaled['std']:.4g}, diffusion expects about 1 "
            f"({SCALED_STD_RANGE[0]:g} to {SCALED_STD_RANGE[1]:g}): the model config's scaling_factor "
            f"{scaled['scaling_factor']:g} was not measured on images like these, where 1/std is {measured}"
        )
    return found


def baseline_warnings(
    psnr: float | None, flat_psnr: float | None, mean_image_psnr: float | None, pooled_psnr: float
) -> list[str]:
    """Warns of a model that keeps hardly any detail, or whose images are much alike; in dB, as in the report.

    `pooled_psnr` is that of the mean squared error over all images, which compares with `mean_image_psnr`.
    """
    if psnr is None or flat_psnr is None:
        return []
    if psnr < flat_psnr + _DETAIL_DB:
        return [
            f"the model keeps hardly any detail: its PSNR is {psnr:.4g} dB, and flat images of the images' own "
            f"mean colour would have {flat_psnr:.4g} dB: look at the images (are they nearly constant or much too "
            "dark?), or train on"
        ]
    if mean_image_psnr is not None and pooled_psnr < mean_image_psnr + _DETAIL_DB:
        return [
            f"the model is hardly better than the mean of the other images: over all values its PSNR is "
            f"{pooled_psnr:.4g} dB, that of the mean {mean_image_psnr:.4g} dB: the images are much alike: judge the "
            "model by what differs between them, or train on"
        ]
    return []


def level_warnings(levels: Sequence[int], pixels: PixelFormat) -> list[str]:
    """Warns of images that use few of the levels between black and white; `levels` are those of each image."""
    few = sum(used <= FEW_LEVELS for used in levels)
    if few < len(levels) / 2 or not levels:
        return []
    remedy = (
        f"the range of {pixels.describe()} is too wide: give a narrower data.value_range, or data.percentiles"
        if pixels.numbers
        else "masks, labels and pixel art do; other images are much too dark or flat, and their PSNR says little"
    )
    return [
        f"{few} of {len(levels)} images use at most {FEW_LEVELS} of {LEVELS} levels between black and white "
        f"(the median image {statistics.median_low(levels)}): {remedy}"
    ]


def codebook_warnings(codebook: dict[str, Any]) -> list[str]:
    """Warnings of the use of a codebook; `codebook` as in EvaluationReport."""
    size, used, codes = codebook["codebook_size"], codebook["used"], codebook["codes"]
    if used >= _USED_SHARE * min(size, codes):
        return []
    return [
        f"codebook collapse: {used} of {size} codes are used over {codes} positions: give bottleneck.revive_below, "
        "bottleneck.kmeans_start or loss.entropy_weight, or take fewer codes or channels of a code"
    ]


def _collapse(latents: dict[str, Any], units: dict[str, Any]) -> list[str]:
    """Collapse is a lack of signal, not of scale: small latents with a smaller posterior variance hold the image."""
    silent = [ratio < 1 for ratio in latents["channel_signal_to_noise"]]
    nats = latents["kl_nats_per_value"]
    if nats < _COLLAPSED_NATS or (units["share"] < _COLLAPSED_SHARE and all(silent)):
        return [
            f"posterior collapse: {units['count']} of {units['total']} latent units are active and the KL is "
            f"{nats:.3g} nats per latent value, so the latents hardly depend on the image: {_REMEDY}"
        ]
    dead = [
        str(channel)
        for channel, (share, quiet) in enumerate(zip(units["share_per_channel"], silent, strict=True))
        if share == 0 and quiet
    ]
    if not dead:
        return []
    return [
        f"{len(dead)} of {len(silent)} latent channels are dead (channel {', '.join(dead)}: no active unit): "
        f"{_REMEDY}, or train with fewer latent channels"
    ]


def loose_warnings(share: float, draws: int) -> list[str]:
    """Warns of a bound of the likelihood that few of the draws carry."""
    # One sample with all the weight is a share of 1/K, which is not small for few samples.
    if draws == 1 or share >= _LOOSE_SHARE + (1 - _LOOSE_SHARE) / draws:
        return []
    return [
        f"the bound is loose: of {draws} draws an image about {share * draws:.3g} carry all weight ({share:.1%}): give "
        "more --importance-samples; where that does not help, the encoder's posterior is far from the model's own"
    ]
