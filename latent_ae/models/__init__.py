"""Diffusers models by name, and how one is built from a config.

Every entry of PRESETS is a set of arguments of stock `diffusers.AutoencoderKL` and `VQModel` (which has no choice of
1x1 convolutions: it always has them), without the two lists of block types, which follow from the number of levels:
n levels make a factor of 2**(n-1) between pixels and latents.
"""

from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL, VQModel

from latent_ae.config import ModelConfig
from latent_ae.io.pixel_format import MAX_CHANNELS
from latent_ae.models.adapt import CONV_IN, CONV_OUT, adapt
from latent_ae.models.autoencoder import (
    AnyAutoencoder,
    Autoencoder,
    factor_of,
    latent_channels,
    latent_shape,
    pad_to_factor,
)
from latent_ae.models.bottlenecks import BOTTLENECKS, BottleneckConfig
from latent_ae.models.bottlenecks.kl import KLConfig
from latent_ae.models.errors import ModelError
from latent_ae.models.loading import load_any_autoencoder, load_autoencoder
from latent_ae.models.parts import encoder_learns, tensor_learns
from latent_ae.randomness import derived_seed

__all__ = [
    "PRESETS",
    "AnyAutoencoder",
    "Autoencoder",
    "build_autoencoder",
    "factor_of",
    "latent_channels",
    "latent_shape",
    "load_any_autoencoder",
    "load_autoencoder",
    "pad_to_factor",
]


def _preset(
    image_channels: int, widths: tuple[int, ...], *, layers: int, latents: int, groups: int = 32, **more: bool
) -> dict[str, object]:
    return {
        "in_channels": image_channels,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": latents,
        "norm_num_groups": groups,
        **more,
    }


_F4, _F8, _F16 = (128, 256, 512), (128, 256, 512, 512), (128, 128, 256, 256, 512)
PRESETS: dict[str, dict[str, object]] = {
    # Seconds on a CPU: what the tests train.
    "tiny": _preset(1, (8, 16), layers=1, latents=2, groups=4, mid_block_add_attention=False),
    "digits": _preset(1, (8, 24, 32, 64), layers=1, latents=3, groups=1, mid_block_add_attention=True),
    "photos-f4": _preset(3, (16, 32, 64), layers=1, latents=4, groups=1, mid_block_add_attention=False),
    "photos-f8": _preset(3, (16, 64, 96, 128), layers=1, latents=16, groups=1, mid_block_add_attention=False),
    # Stable Diffusion 1.x and 2.x (kl-f8): 83,653,863 parameters.
    "sd": _preset(3, _F8, layers=2, latents=4),
    # Stable Diffusion 3 and FLUX.1: 16 channels, no 1x1 convolutions around the latents.
    "sd3": _preset(3, _F8, layers=2, latents=16, use_quant_conv=False, use_post_quant_conv=False),
    # latent-diffusion's kl-f4, and a kl-f16 on Stable Diffusion's widths.
    "kl-f4": _preset(3, _F4, layers=2, latents=3),
    "kl-f16": _preset(3, _F16, layers=2, latents=16),
    # LlamaGen's VQ-16, with the vectors that its codes are projected from, and latent-diffusion's vq-f8.
    "vq-f16": _preset(3, _F16, layers=2, latents=256),
    "vq-f8": _preset(3, (128, 256, 256, 512), layers=2, latents=4),
}


def build_autoencoder(
    config: ModelConfig, bottleneck: BottleneckConfig | None = None, *, seed: int, resolution: int | tuple[int, int]
) -> Autoencoder:
    """The stock autoencoder a config asks for, with weights that follow from `seed` or come from `init_from`.

    `bottleneck` decides between AutoencoderKL (the default) and VQModel, and gives the size of the codebook.
    `resolution` is the size of a training image, or its side; diffusers records it as `sample_size`.
    Raises ModelError naming what does not fit.
    """
    bottleneck = bottleneck or KLConfig()
    size = (resolution, resolution) if isinstance(resolution, int) else resolution
    if config.init_from is not None:
        model = load_autoencoder(config.init_from, norm_num_groups=config.norm_num_groups)
        _check_class(model, bottleneck, config.init_from)
        model = _adapted(model, config, seed=seed)
    else:
        model = _from_preset(config, bottleneck, seed=seed, size=size)
    if (channels := model.config["in_channels"]) > MAX_CHANNELS:
        raise ModelError(f"the model takes images of {channels} channels; up to {MAX_CHANNELS} can be trained")
    factor = factor_of(model)
    if any(side % factor for side in size):
        nearest = (max(1, round(side / factor)) * factor for side in size)
        raise ModelError(
            f"data.resolution {_shown(size)} is not a multiple of the model's factor {factor}: take {_shown(nearest)}"
        )
    return model


def _shown(size: Iterable[int]) -> str:
    """The side of a square, or HxW."""
    return "x".join(map(str, dict.fromkeys(size)))


def _check_class(model: Autoencoder, bottleneck: BottleneckConfig, name: str) -> None:
    if model.config.get("norm_type") == "spatial":
        raise ModelError(f"model.init_from {name} has spatial normalisation (MoVQ), which cannot be trained here")
    if (found := type(model).__name__) != bottleneck.stock_class:
        kinds = " or ".join(kind for kind, entry in BOTTLENECKS.items() if entry.stock_class == found)
        raise ModelError(
            f"model.init_from {name} is {found}, but bottleneck.kind {bottleneck.kind} trains "
            f"{bottleneck.stock_class}: give bottleneck.kind {kinds}"
        )


def _adapted(model: Autoencoder, config: ModelConfig, *, seed: int) -> Autoencoder:
    """The loaded model with the channels that a config gives beside init_from. Raises ModelError for no change."""
    images, latents = config.image_channels, config.latent_channels
    if images is None and latents is None:
        return model
    before = {"image_channels": int(model.config["in_channels"]), "latent_channels": latent_channels(model)}
    for name, count in before.items():
        if getattr(config, name) == count:
            raise ModelError(f"model.{name} {count} has no effect, as {config.init_from} has {count}: leave it out")
    if config.new_channels is not None and (images or 0) < before["image_channels"]:
        raise ModelError(
            f"model.new_channels has no effect, as {config.init_from} has {before['image_channels']} image channels "
            f"and no new ones with model.image_channels {images}: leave it out"
        )
    unseen = [end for end in (CONV_IN, CONV_OUT) if not tensor_learns(config.trained, f"{end}.weight")]
    if (images or 0) > before["image_channels"] > 2 and config.new_channels != "average" and unseen:
        raise ModelError(
            f"model.image_channels {images} adds channels that begin with zero weights in {unseen[0]}, which "
            "model.trained freezes: let it learn, or give model.new_channels average"
        )
    if latents is not None and latents > before["latent_channels"] and not encoder_learns(config.trained):
        raise ModelError(
            f"model.latent_channels {latents} adds channels to the {before['latent_channels']} of {config.init_from}, "
            "which a frozen encoder never fills: let it learn (model.trained)"
        )
    return adapt(
        model,
        image_channels=images or before["image_channels"],
        latents=latents or before["latent_channels"],
        new_channels=config.new_channels or "zero",
        seed=seed,
    )


def _from_preset(config: ModelConfig, bottleneck: BottleneckConfig, *, seed: int, size: tuple[int, int]) -> Autoencoder:
    if config.preset not in PRESETS:
        raise ModelError(f"unknown model.preset {config.preset!r}; there are {', '.join(sorted(PRESETS))}")
    arguments = {**PRESETS[config.preset], **config.architecture_changes()}
    if (channels := arguments.pop("image_channels", None)) is not None:
        arguments["in_channels"] = channels
    arguments["out_channels"] = arguments["in_channels"]
    channels = arguments["latent_channels"]
    assert isinstance(channels, int)
    own = bottleneck.stock_arguments(channels)
    widths, groups = arguments["block_out_channels"], arguments["norm_num_groups"]
    assert isinstance(widths, tuple)
    assert isinstance(groups, int)
    if uneven := [width for width in widths if width % groups]:
        raise ModelError(f"model.norm_num_groups {groups} must divide every width; it does not divide {uneven}")
    arguments |= {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "sample_size": size[0] if size[0] == size[1] else size,
        # Diffusers' default is Stable Diffusion's number; ours is measured at the end of a run.
        "scaling_factor": 1.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        if bottleneck.stock_class == "AutoencoderKL":
            return AutoencoderKL(**arguments, shift_factor=0.0, **own)
        for always_there in ("use_quant_conv", "use_post_quant_conv"):
            arguments.pop(always_there, None)
        return VQModel(**arguments, **own)
