"""Diffusers models by name, and the way to one from a config.

Every entry of PRESETS is a set of arguments of stock `diffusers.AutoencoderKL`, without the two lists of block types,
which follow from the number of levels: n levels make a factor of 2**(n-1) between pixels and latents.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from latent_ae.config import ModelConfig
from latent_ae.models.errors import ModelError
from latent_ae.randomness import derived_seed

PRESETS: dict[str, dict[str, object]] = {
    # Seconds on a CPU: what the tests train.
    "tiny": {
        "in_channels": 1,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "latent_channels": 2,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    },
    "digits": {
        "in_channels": 1,
        "block_out_channels": (8, 24, 32, 64),
        "layers_per_block": 1,
        "latent_channels": 3,
        "norm_num_groups": 1,
        "mid_block_add_attention": True,
    },
    "photos-f4": {
        "in_channels": 3,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 1,
        "mid_block_add_attention": False,
    },
    # Stable Diffusion 1.x and 2.x (kl-f8): 83,653,863 parameters.
    "sd": {
        "in_channels": 3,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": 32,
    },
    # Stable Diffusion 3 and FLUX.1: 16 channels, no 1x1 convolutions around the latents.
    "sd3": {
        "in_channels": 3,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 32,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    # latent-diffusion's kl-f4, and a kl-f16 on Stable Diffusion's widths.
    "kl-f4": {
        "in_channels": 3,
        "block_out_channels": (128, 256, 512),
        "layers_per_block": 2,
        "latent_channels": 3,
        "norm_num_groups": 32,
    },
    "kl-f16": {
        "in_channels": 3,
        "block_out_channels": (128, 128, 256, 256, 512),
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 32,
    },
}


def build_autoencoder(config: ModelConfig, *, seed: int, resolution: int) -> AutoencoderKL:
    """The stock autoencoder a config asks for, with weights that follow from `seed` or come from `init_from`.

    `resolution` is the side of a training image in pixels; diffusers records it as `sample_size`.
    Raises ModelError naming what does not fit.
    """
    if config.init_from is not None:
        model = load_autoencoder(config.init_from)
    else:
        model = _from_preset(config, seed=seed, resolution=resolution)
    if (channels := model.config["in_channels"]) not in (1, 3):
        raise ModelError(f"the model takes images of {channels} channels; 1 (grey) and 3 (RGB) can be trained")
    if resolution % factor_of(model):
        raise ModelError(
            f"data.resolution {resolution} is not a multiple of the model's factor {factor_of(model)}: "
            f"take {max(1, round(resolution / factor_of(model))) * factor_of(model)}"
        )
    return model


def load_autoencoder(name: str) -> AutoencoderKL:
    """An AutoencoderKL from a diffusers folder, a pipeline folder with `vae/` in it, or a hub id, in float32.

    Raises ModelError if there is none or if any of its weights are missing: diffusers would fill those at random.
    """
    folder = Path(name)
    candidates = [None, "vae"] if not folder.exists() or not (folder / "config.json").exists() else [None]
    reasons = []
    for subfolder in candidates:
        try:
            loaded = AutoencoderKL.from_pretrained(
                name, subfolder=subfolder, torch_dtype=torch.float32, output_loading_info=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError) as error:
            reasons.append(" ".join(str(error).split()))
            continue
        model, info = loaded
        if broken := [*info["missing_keys"], *info["mismatched_keys"]]:
            raise ModelError(f"{name} lacks {len(broken)} of its weights, the first of them {broken[0]}")
        return model
    raise ModelError(f"cannot load an AutoencoderKL from {name}: {reasons[0]}")


def factor_of(model: AutoencoderKL) -> int:
    """Pixels per latent position along a side: 2**(levels - 1)."""
    return int(2 ** (len(model.config["block_out_channels"]) - 1))


def pad_to_factor(pixels: Tensor, factor: int) -> Tensor:
    """Pixels [B,C,H,W] padded at the bottom and right to multiples of `factor` by repeating the edge."""
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % factor, 0, -height % factor), mode="replicate")


def latent_shape(model: AutoencoderKL, resolution: int) -> tuple[int, int, int]:
    """(c, h, w) of the latents of a square image."""
    side = resolution // factor_of(model)
    return (model.config["latent_channels"], side, side)


def _from_preset(config: ModelConfig, *, seed: int, resolution: int) -> AutoencoderKL:
    if config.preset not in PRESETS:
        raise ModelError(f"unknown model.preset {config.preset!r}; there are {', '.join(sorted(PRESETS))}")
    arguments = {**PRESETS[config.preset], **config.architecture_changes()}
    if (channels := arguments.pop("image_channels", None)) is not None:
        arguments["in_channels"] = channels
    arguments["out_channels"] = arguments["in_channels"]
    widths, groups = arguments["block_out_channels"], arguments["norm_num_groups"]
    assert isinstance(widths, tuple)
    assert isinstance(groups, int)
    if uneven := [width for width in widths if width % groups]:
        raise ModelError(f"model.norm_num_groups {groups} must divide every width; it does not divide {uneven}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(seed, "weights"))
        return AutoencoderKL(
            **arguments,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            sample_size=resolution,
            # Diffusers' default is Stable Diffusion's number; ours is measured at the end of a run.
            scaling_factor=1.0,
            shift_factor=0.0,
        )
