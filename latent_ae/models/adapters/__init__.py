"""The other image autoencoders of diffusers: what can be encoded, decoded and measured with, a row for each class.

Training and exports are for AutoencoderKL and VQModel. A class that gives moments or latents of any image or of a
single frame, and pixels in [-1, 1] of latents without drawing noise, needs nothing but its row.
"""

from latent_ae.models.adapters.adapter import Adapter, Config, Row, halvings, key
from latent_ae.models.adapters.normalisation import (
    by_batch_norm,
    by_buffers,
    by_channel,
    by_channel_and_frame,
    unscaled,
)

__all__ = ["ADAPTERS", "Adapter", "Row"]


def _wan_factor(config: Config) -> int:
    return halvings("dim_mult")(config) * (config.get("patch_size") or 1)


def _wan_channels(config: Config) -> int:
    return int(config["in_channels"]) // (config.get("patch_size") or 1) ** 2


def _ltx_factor(config: Config) -> int:
    stated = config.get("spatial_compression_ratio")
    return int(stated or config["patch_size"] * 2 ** sum(config["spatio_temporal_scaling"]))


def _draws_noise(config: Config) -> str:
    noise = config.get("timestep_conditioning") or any(config.get("decoder_inject_noise") or ())
    return "its decoder denoises, from noise that it draws (timestep_conditioning)" if noise else ""


_ratio = key("spatial_compression_ratio")
_LAYERS = ("act_fn", "norm_num_groups")

ADAPTERS: dict[str, Row] = {
    "AutoencoderTiny": Row(factor=halvings("encoder_block_out_channels"), posterior=False, encoder_config=("act_fn",)),
    "AutoencoderDC": Row(
        factor=halvings("encoder_block_out_channels"),
        posterior=False,
        encoder_config=("encoder_out_shortcut", "downsample_block_type"),
    ),
    "AsymmetricAutoencoderKL": Row(factor=halvings("down_block_out_channels"), encoder_config=_LAYERS),
    "AutoencoderKLFlux2": Row(
        factor=halvings("block_out_channels"), normalisation=by_batch_norm, encoder_config=_LAYERS
    ),
    "AutoencoderKLHunyuanImage": Row(factor=_ratio, encoder_config=("downsample_match_channel",)),
    "AutoencoderKLKVAE": Row(factor=halvings("ch_mult"), normalisation=unscaled, latent_channels=key("z_channels")),
    "AutoencoderKLTemporalDecoder": Row(factor=halvings("block_out_channels"), decoding={"num_frames": 1}),
    "AutoencoderKLQwenImage": Row(
        factor=halvings("dim_mult"),
        normalisation=by_channel,
        image_channels=key("input_channels"),
        latent_channels=key("z_dim"),
        time_axis=True,
    ),
    **dict.fromkeys(
        ("AutoencoderKLQwenImage21", "AutoencoderKLWan"),
        Row(
            factor=_wan_factor,
            normalisation=by_channel,
            image_channels=_wan_channels,
            latent_channels=key("z_dim"),
            time_axis=True,
            encoder_config=("patch_size",),
        ),
    ),
    "AutoencoderKLCosmos": Row(
        factor=_ratio,
        normalisation=by_channel_and_frame,
        posterior=False,
        time_axis=True,
        encoder_config=("patch_type",),
    ),
    "AutoencoderKLHunyuanImageRefiner": Row(
        factor=_ratio, time_axis=True, encoder_config=("downsample_match_channel",)
    ),
    "AutoencoderKLHunyuanVideo": Row(factor=_ratio, time_axis=True, encoder_config=_LAYERS),
    "AutoencoderKLHunyuanVideo15": Row(
        factor=_ratio, time_axis=True, batches=False, encoder_config=("downsample_match_channel",)
    ),
    "AutoencoderKLLTXVideo": Row(
        factor=_ltx_factor,
        normalisation=by_buffers,
        time_axis=True,
        encoder_config=("encoder_causal", "resnet_norm_eps"),
        refused=_draws_noise,
    ),
}
"""by `_class_name` in config.json"""
